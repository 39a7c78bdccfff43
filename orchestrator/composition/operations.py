"""List operations that are to be spread over sandboxes. Pure. The others are the runner's to judge."""

import re
from typing import Any

from msgspec import Raw
from runner.evaluation.references import NAME
from runner.evaluation.tags import tag_of

from orchestrator.composition.parts import Place, Spread
from orchestrator.composition.tags import REFERENCE, tagged
from orchestrator.errors import InvalidRequest

# Those of which each item is worked on without the others.
SPREADABLE = ("map", "filter", "starmap", "flatmap")

_MEMBERS = frozenset({"op", "function", "list", "parallel"})
_NUMBER = re.compile(rb"[0-9]{1,9}")


def spread(stage: Any, session: str, place: Place, *, max_parallel: int) -> Spread | None:
    """The list operation of a stage, `{"listop": …}` or bare, if it is one that is to be spread. Raises `InvalidRequest`."""
    wrapped = type(stage) is dict and "listop" in stage
    operation = stage["listop"] if wrapped else stage
    if type(operation) is not dict or "parallel" not in operation:
        return None
    field = ".".join(step for step in (place.field, "listop" if wrapped else "") if step)
    if wrapped:
        _refuse_others(stage, place)
    check = _Check(operation, field, place)
    parallel = check.parallel(max_parallel)
    if parallel == 1:
        return None
    items, constructor = check.items()
    bare = {name: operation[name] for name in ("op", "function")}
    return Spread(session, place, field, bare, parallel, items, constructor)


def _refuse_others(stage: dict[str, Any], place: Place) -> None:
    """As the runner would, who does not see this stage. Raises `InvalidRequest`."""
    for name in stage.keys() - {"listop"}:
        msg = "unknown member; a stage that is a list operation has listop, nothing else"
        field = ".".join(step for step in (place.field, name[:100]) if step)
        raise InvalidRequest(msg, field=field, place=place.members())


class _Check:
    """One list operation, and where it stands."""

    def __init__(self, operation: dict[str, Any], field: str, place: Place) -> None:
        self._operation = operation
        self._field = field
        self._place = place

    def parallel(self, most: int) -> int:
        """Over how many sandboxes it is to be spread."""
        for name in self._operation.keys() - _MEMBERS:
            msg = f"with parallel there are {', '.join(sorted(_MEMBERS))}, nothing else"
            raise self._refused(msg, name[:100])
        if self._operation.get("op") not in SPREADABLE:
            msg = f"only {', '.join(SPREADABLE)} may be spread over sandboxes"
            raise self._refused(msg, "parallel")
        if "function" not in self._operation:
            msg = "is missing: what to apply"
            raise self._refused(msg, "function")
        number = self._operation["parallel"]
        text = bytes(number) if type(number) is Raw else b""
        if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
            msg = f"parallel must be a whole number of sandboxes, from 1 to {most}"
            raise self._refused(msg, "parallel")
        if int(text) > 1:
            self._refuse_references(self._operation["function"], "function")
        return int(text)

    def items(self) -> tuple[Any, Any]:
        """Its own list, if it has one, without the constructor that an array in last position is; and that."""
        items = self._operation.get("list")
        if "list" in self._operation and type(items) is not list and not (type(items) is dict and tag_of(items)):
            msg = "must be a list"
            raise self._refused(msg, "list")
        if type(items) is not list:
            return items, None
        self._refuse_references(items, "list")
        if not items or type(items[-1]) is not list:
            return items, None
        kinds = [type(item) for item in items[:-1]]
        for number, kind in enumerate(kinds):
            if kind is not kinds[0]:
                msg = "the items before a constructor must all be of one JSON type"
                raise self._refused(msg, f"list[{number}]")
        return items[:-1], items[-1]

    def _refuse_references(self, value: Any, member: str) -> None:
        """What a session keeps is in its own sandbox alone."""
        by_tag = any(NAME.fullmatch(found[tag]) for found, tag in tagged(value, (REFERENCE,)))
        first = value[0] if member == "function" and type(value) is list and value else None
        if by_tag or (type(first) is dict and "ref" in first):
            msg = "a reference cannot go to other sandboxes: leave out parallel"
            raise self._refused(msg, member)

    def _refused(self, detail: str, member: str) -> InvalidRequest:
        return InvalidRequest(detail, field=f"{self._field}.{member}", place=self._place.members())
