"""Requests to a runner's `Calls` in the test's own process, without a link or a worker."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner import frames
from runner.calls import Calls, Limits
from runner.place import Place

LIMITS: dict[str, int] = {
    "max_reply_bytes": 1 << 20,
    "max_content_bytes": 1 << 20,
    "max_items": 1000,
    "max_references": 5,
    "max_reference_bytes": 1 << 20,
}


class Silent:
    """What takes the place of `capture.Capture`: nothing is captured."""

    def take(self) -> dict[str, object]:
        return {}


class Told:
    """What takes the place of `stream.Stream`."""

    def __init__(self) -> None:
        self.items: list[tuple[int, Any]] = []

    def item(self, index: int, value: bytes) -> None:
        self.items.append((index, json.loads(value)))


@dataclass
class Reply:
    kind: int
    body: dict[str, Any]
    extra: bytes

    @property
    def value(self) -> Any:
        assert self.kind == frames.VALUE, self.body
        return self.body["value"]

    @property
    def raised(self) -> tuple[str, str]:
        assert self.kind == frames.RAISED, self.body
        return self.body["exception"]["type"], self.body["exception"]["message"]

    @property
    def refused(self) -> tuple[str, str | None]:
        """Code and field."""
        assert self.kind == frames.REFUSED, self.body
        return self.body["code"], self.body.get("field")


@dataclass
class Session:
    """One worker; `changed` are limits that are not the usual ones."""

    changed: dict[str, int] = field(default_factory=dict)
    first: bool = True

    def __post_init__(self) -> None:
        self.calls = Calls(Silent(), Limits.of({**LIMITS, **self.changed}), Place(), first=self.first)  # type: ignore[arg-type]

    def ask(
        self,
        kind: int,
        members: dict[str, Any] | bytes = b"",
        *,
        files: Mapping[str, bytes] | None = None,
        forms: Sequence[str] = (),
        flags: int = 0,
        events: Told | None = None,
    ) -> Reply:
        body = members if isinstance(members, bytes) else json.dumps(members).encode()
        extra = envelope(forms or ["json"], files or {}) if forms or files else b""
        kind, text, beside = self.calls.answer(frames.Frame(kind, flags, 1, body, extra), events)  # type: ignore[arg-type]
        return Reply(kind, json.loads(text), b"".join(beside))

    def call(self, namepath: Any, *args: Any, **members: Any) -> Reply:
        given = {"args": args} if args else {}
        return self.ask(frames.CALL, {"namepath": namepath, **given, **members})

    def keep(self, namepath: Any, *args: Any, **members: Any) -> str:
        """The name of the result."""
        name: str = self.call(namepath, *args, keep=True, **members).value["$ref"]
        return name

    def compose(self, **members: Any) -> Reply:
        return self.ask(frames.COMPOSE, members)

    def kept(self) -> list[str]:
        return [listed["$ref"] for listed in self.ask(frames.REFERENCES).value]


def envelope(forms: Sequence[str], files: Mapping[str, bytes]) -> bytes:
    head = {"forms": list(forms), "files": [(name, len(data)) for name, data in files.items()]}
    text = json.dumps(head).encode()
    return b"".join([frames.ENVELOPE.pack(len(text)), text, *files.values()])
