"""A builder sandbox's output as events. It is hostile: a package's build code may have written any of it."""

import json

from orchestrator.sandboxes.backend import BuildEvent

MAX_LINE_BYTES = 2048
MAX_EVENTS = 5000  # of one build: they are kept for who comes later
# A builder says these; every other phase comes from the orchestrator itself, so a package cannot claim to be "ready".
PHASES = frozenset({"install", "compile"})


class BuildLog:
    """Cuts standard output (JSON lines) and standard error (text) into bounded events, and keeps the log's end."""

    def __init__(self, *, tail_bytes: int) -> None:
        self._tail_bytes = tail_bytes
        self._tail = bytearray()
        self._phase = "install"
        self._stdout = _Lines()
        self._stderr = _Lines()
        self._events = 0

    def stdout(self, data: bytes) -> list[BuildEvent]:
        return self._bounded([self._event(line) for line in self._stdout.feed(data)])

    def stderr(self, data: bytes) -> list[BuildEvent]:
        return self._bounded([self._text(line, None) for line in self._stderr.feed(data)])

    def tail(self) -> str:
        """The log's last `tail_bytes` bytes at most, from the start of a line where one was cut, control characters gone."""
        cut = len(self._tail) > self._tail_bytes
        kept = bytes(self._tail[-self._tail_bytes :])
        if cut and b"\n" in kept:
            kept = kept.partition(b"\n")[2]
        return kept.decode(errors="replace").strip("\n")

    def _bounded(self, events: list[BuildEvent]) -> list[BuildEvent]:
        """What of these is still told; the tail has all of them."""
        told = events[: max(0, MAX_EVENTS - self._events)]
        if self._events <= MAX_EVENTS < self._events + len(events):
            told.append(BuildEvent(self._phase, line=f"more than {MAX_EVENTS} lines: the rest is left out"))
        self._events += len(events)
        return told

    def _event(self, line: bytes) -> BuildEvent:
        try:
            members = json.loads(line)
        except (ValueError, RecursionError):
            return self._text(line, None)
        if not isinstance(members, dict) or not isinstance(members.get("line"), str):
            return self._text(line, None)
        if members.get("phase") in PHASES:
            self._phase = members["phase"]
        package = members.get("package")
        return self._text(members["line"].encode(errors="replace"), package if isinstance(package, str) else None)

    def _text(self, line: bytes, package: str | None) -> BuildEvent:
        text = printable(line.decode(errors="replace"))
        self._tail += text.encode() + b"\n"
        if len(self._tail) > 4 * self._tail_bytes:
            del self._tail[: -2 * self._tail_bytes]
        return BuildEvent(self._phase, package=None if package is None else printable(package)[:200], line=text)


class _Lines:
    """Splits bytes into lines; what goes past MAX_LINE_BYTES of a line is dropped, so nothing grows without end."""

    def __init__(self) -> None:
        self._open = b""

    def feed(self, data: bytes) -> list[bytes]:
        *whole, rest = data.split(b"\n")
        lines = []
        for part in whole:
            lines.append((self._open + part)[:MAX_LINE_BYTES].rstrip(b"\r"))
            self._open = b""
        self._open = (self._open + rest)[:MAX_LINE_BYTES]
        return [line for line in lines if line]


def printable(text: str) -> str:
    """Without terminal escapes and other control characters: the text may be shown on a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
