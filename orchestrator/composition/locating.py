"""Where in a composition a part's failure belongs: a runner counts stages and items from the beginning of its part. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from orchestrator.composition.parts import Part, Spread, Straight
from orchestrator.sandboxes.replies import NotSerializable, Raised, RefusedCall, Reply, TimedOut, Violation, WorkerDied

_STAGE = re.compile(r"pipeline\[([0-9]{1,9})\]")
_OPERATION = re.compile(r"(?:pipeline\[0\]\.)?listop\b")
_ITEM = re.compile(r"(?:listop\.list|piped)\[([0-9]{1,9})\]")


class _Told(msgspec.Struct, frozen=True):
    field: str | None = None
    stage: int | None = None
    item: int | None = None


_told = msgspec.json.Decoder(_Told)
_members = msgspec.json.Decoder(dict[str, Raw])


class Counting(Protocol):
    """How a part counts."""

    @property
    def part(self) -> Part: ...

    def places(self, stage: int | None, item: int | None) -> Mapping[str, int]:
        """Pipe, stage and item in the request, from the part's own."""

    def field(self, field: str) -> str:
        """The field in the request."""


@dataclass(frozen=True, slots=True)
class OfStages:
    """The counting of a part that is stages one after another."""

    part: Straight

    def places(self, stage: int | None, item: int | None) -> Mapping[str, int]:
        own = self.part.place.stage
        there = replace(self.part.place, stage=None if own is None or stage is None else own + stage)
        return there.members() if item is None else {**there.members(), "item": item}

    def field(self, field: str) -> str:
        place = self.part.place
        if field.startswith("piped"):
            return place.field
        found = _STAGE.match(field)
        if found is None or place.stage is None:
            return field
        return replace(place, stage=place.stage + int(found[1])).field + field[found.end() :]


@dataclass(frozen=True, slots=True)
class OfItems:
    """The counting of a piece of a list: `items` of `all`, from `offset` on."""

    part: Spread
    offset: int
    items: int
    all: int

    def places(self, stage: int | None, item: int | None) -> Mapping[str, int]:
        there = self.part.place.members()
        return there if item is None else {**there, "item": item + self.offset}

    def field(self, field: str) -> str:
        if found := _ITEM.match(field):
            if self.part.items is None:
                return self.part.place.field
            item = int(found[1])
            whole = self.all if item >= self.items else item + self.offset  # behind the last is the constructor
            return f"{self.part.field}.list[{whole}]{field[found.end() :]}"
        return _OPERATION.sub(self.part.field, field, count=1)


def located(reply: Reply, counting: Counting) -> Reply:
    """The same failure, where the client sees it."""
    match reply:
        case RefusedCall():
            places = counting.places(reply.stage, reply.item)
            field = None if reply.field is None else counting.field(reply.field)
            stage, item, pipe = (places.get(name) for name in ("stage", "item", "pipe"))
            return replace(reply, field=field, stage=stage, item=item, pipe=pipe)
        case Raised() | NotSerializable():
            return replace(reply, body=_located_body(reply.body, counting))
        case TimedOut() | WorkerDied() if reply.place:
            return replace(reply, place=counting.places(reply.place.get("stage"), reply.place.get("item")))
        case TimedOut() | WorkerDied() | Violation():
            return replace(reply, place=counting.part.members())
        case _:
            return reply


def _located_body(body: bytes, counting: Counting) -> bytes:
    try:
        told = _told.decode(body)
        members: dict[str, Any] = dict(_members.decode(body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body  # none that our runner makes: the client sees it as it is
    members |= {} if told.field is None else {"field": counting.field(told.field)}
    members |= {"stage": None, "item": None, **counting.places(told.stage, told.item)}
    return msgspec.json.encode({name: value for name, value in members.items() if value is not None})
