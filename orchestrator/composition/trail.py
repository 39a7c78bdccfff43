"""What the parts before the last one printed, and how long they ran: the client gets it with the last one's reply. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from orchestrator.composition.crossing import Told
from orchestrator.sandboxes.replies import NotSerializable, Raised, Reply, Typed, Value


class _Head(msgspec.Struct, frozen=True):
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    ms: float = 0.0


_head = msgspec.json.Decoder(_Head)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Trail:
    """`max_bytes` bound each of stdout and stderr, as they do in a reply."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._before: list[Told | _Head] = []
        self._ms = 0.0

    def add(self, tolds: Sequence[Told]) -> None:
        """What ran at the same time, in the order in which it is to be read."""
        self._before += tolds
        self._ms += max(told.ms for told in tolds)

    def with_reply(self, reply: Reply) -> Reply:
        """The last reply, with what came before."""
        if self._before and isinstance(reply, Value | Typed | Raised | NotSerializable):
            return replace(reply, body=self._into(reply.body))
        return reply

    def _into(self, body: bytes) -> bytes:
        try:
            last = _head.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return body  # no reply that our runner makes; the client sees it as it is
        heads = [*self._before, last]
        merged: dict[str, Any] = {"ms": round(self._ms + last.ms, 3)}
        truncated = any(head.truncated for head in heads)
        for name in ("stdout", "stderr"):
            text, whole = self._bounded("".join(getattr(head, name) for head in heads))
            truncated = truncated or not whole
            merged[name] = text or None
        merged["truncated"] = truncated or None
        members = {**_members.decode(body), **merged}
        return msgspec.json.encode({name: value for name, value in members.items() if value is not None})

    def _bounded(self, text: str) -> tuple[str, bool]:
        data = text.encode()
        if len(data) <= self._max_bytes:
            return text, True
        return data[: self._max_bytes].decode(errors="ignore"), False
