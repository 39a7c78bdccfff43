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
    """`max_bytes` bound each of stdout and stderr, as they do in a reply. No value is kept."""

    def __init__(self, max_bytes: int) -> None:
        self._texts = {"stdout": _Text(max_bytes), "stderr": _Text(max_bytes)}
        self._truncated = False
        self._ms = 0.0
        self._empty = True

    def add(self, tolds: Sequence[Told]) -> None:
        """What ran at the same time, in the order in which it is to be read."""
        for told in tolds:
            self._print(told)
        self._ms += max(told.ms for told in tolds)
        self._empty = False

    def with_reply(self, reply: Reply) -> Reply:
        """The last reply, with what came before. To be asked for once."""
        if not self._empty and isinstance(reply, Value | Typed | Raised | NotSerializable):
            return replace(reply, body=self._into(reply.body))
        return reply

    def _print(self, told: Told | _Head) -> None:
        self._truncated |= told.truncated
        for name, text in self._texts.items():
            text.add(getattr(told, name))

    def _into(self, body: bytes) -> bytes:
        try:
            last, own = _head.decode(body), _members.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return body  # no reply that our runner makes; the client sees it as it is
        self._print(last)
        merged: dict[str, Any] = {name: text.text or None for name, text in self._texts.items()}
        truncated = self._truncated or any(text.cut for text in self._texts.values())
        members = {**own, **merged, "ms": round(self._ms + last.ms, 3), "truncated": truncated or None}
        return msgspec.json.encode({name: value for name, value in members.items() if value is not None})


class _Text:
    """What was printed, as far as there is room for it."""

    def __init__(self, max_bytes: int) -> None:
        self.text = ""
        self.cut = False
        self._left = max_bytes

    def add(self, text: str) -> None:
        data = text.encode()
        if len(data) > self._left:
            self.cut = True
            text = data[: self._left].decode(errors="ignore")
            self._left = 0
        else:
            self._left -= len(data)
        self.text += text
