"""What a call prints, whoever prints it: descriptors 1 and 2 lead into memory, and are read at the end of the call.

Code below Python and programs that are started write there too. What Python itself prints stops at the bound, so that
an endless loop of `print` does not fill the memory; the rest is bounded by RLIMIT_FSIZE.
"""

from __future__ import annotations

import os
import sys
from fcntl import F_GETFD, F_GETFL, F_SETFL, fcntl
from io import BufferedWriter, RawIOBase, TextIOWrapper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Aside = Callable[[int], int]


class Capture:
    """Both streams of one worker."""

    def __init__(self, max_bytes: int, aside: Aside) -> None:
        """`max_bytes` of each stream are kept for a call; `aside` moves a descriptor out of user code's way."""
        self._streams = (_Stream(1, "stdout", max_bytes, aside), _Stream(2, "stderr", max_bytes, aside))
        self._before_take: Callable[[], None] | None = None

    def follow(self, max_bytes: int, before_take: Callable[[], None]) -> tuple[Tail, ...]:
        """Let both be read while the call runs, up to `max_bytes` of each. `take` calls `before_take` and holds no text."""
        self._before_take = before_take
        return tuple(stream.follow(max_bytes) for stream in self._streams)

    def flush(self) -> None:
        """Bring what Python holds back to where it can be read."""
        for stream in self._streams:
            stream.flush()

    def take(self) -> dict[str, object]:
        """Members of a reply: `stdout` and `stderr` unless empty, `truncated` if something is missing. Begins anew."""
        if self._before_take is not None:
            self.flush()
            self._before_take()
            self._before_take = None
        members: dict[str, object] = {}
        for stream in self._streams:
            text, truncated = stream.take()
            if text:
                members[stream.name] = text
            if truncated:
                members["truncated"] = True
        return members


class Tail:
    """What comes into a stream while it is followed."""

    def __init__(self, name: str, file: int, max_bytes: int) -> None:
        self.name = name
        self._file = file
        self._at = 0
        self._max_bytes = max_bytes

    def read(self, count: int) -> bytes:
        """Up to `count` bytes that have not been read; fewer where there are no more, or no more are wanted."""
        try:
            data = os.pread(self._file, min(count, self._max_bytes - self._at), self._at)
        except OSError:  # user code closed it
            return b""
        self._at += len(data)
        return data


class _Stream:
    def __init__(self, number: int, name: str, max_bytes: int, aside: Aside) -> None:
        self.name = name
        self._followed_bytes = 0  # while it is followed: the bound
        self._number = number
        self._max_bytes = max_bytes
        self._aside = aside
        self._open()

    def _open(self) -> None:
        file = _memory_file(self.name)
        # Appending, so that after it was emptied a write by whoever holds it goes to its start.
        fcntl(file, F_SETFL, fcntl(file, F_GETFL) | os.O_APPEND)
        self._file = self._aside(os.dup(file))
        os.dup2(file, self._number)
        if file == self._number:  # it was free
            os.set_inheritable(file, True)
        else:
            os.close(file)
        self._identity = _identity(self._file)
        self._raw = _Bounded(self._number, self._max_bytes)
        self._text = TextIOWrapper(BufferedWriter(self._raw), encoding="utf-8", errors="backslashreplace")
        setattr(sys, self.name, self._text)
        setattr(sys, f"__{self.name}__", self._text)

    def follow(self, max_bytes: int) -> Tail:
        self._followed_bytes = self._raw.max_bytes = max_bytes
        self._buffer_lines(True)
        return Tail(self.name, self._file, max_bytes)

    def take(self) -> tuple[str, bool]:
        """What was written since the last time and not told, and whether some of it is missing."""
        followed_bytes, self._followed_bytes = self._followed_bytes, 0
        if not followed_bytes:
            taken = self._take(self._max_bytes, self._max_bytes)
        else:
            self._raw.max_bytes = self._max_bytes
            self._buffer_lines(False)
            taken = self._take(followed_bytes, 0)
        self._restore()
        return taken

    def _restore(self) -> None:
        """Where user code closed our number, let it lead into memory again; a file of its own under it stays."""
        try:
            fcntl(self._number, F_GETFD)
        except OSError:
            if _identity(self._file) == self._identity:
                os.dup2(self._file, self._number)
            else:
                self._open()

    def flush(self) -> None:
        try:
            self._text.flush()
        except (OSError, ValueError):  # user code closed it: `take` opens it anew
            return

    def _buffer_lines(self, lines: bool) -> None:
        try:
            self._text.reconfigure(line_buffering=lines)
        except (OSError, ValueError):  # user code closed it: `take` opens it anew
            return

    def _take(self, bound: int, wanted: int) -> tuple[str, bool]:
        try:
            self._text.flush()
            size = os.lseek(self._file, 0, os.SEEK_END)
            if not size and not self._raw.dropped:
                return "", False
            if _identity(self._file) == self._identity:
                return self._read(wanted), self._empty(size > bound)
        except (OSError, ValueError):
            pass
        self._reopen()
        return "", False

    def _reopen(self) -> None:
        """User code closed the stream, or our number is that of a file of its own by now: what it printed is lost."""
        if _identity(self._file) == self._identity:
            os.close(self._file)
        self._open()

    def _read(self, most: int) -> str:
        return os.pread(self._file, most, 0).decode("utf-8", "replace") if most else ""

    def _empty(self, over: bool) -> bool:
        """Begin anew. Whether something of what was written is missing: `over`, or what Python did not write."""
        truncated = self._raw.dropped or over
        os.ftruncate(self._file, 0)
        self._raw.written = 0
        self._raw.dropped = False
        return truncated


class _Bounded(RawIOBase):
    """Writes to a descriptor up to a bound, and then only notes that there was more."""

    def __init__(self, descriptor: int, max_bytes: int) -> None:
        self._descriptor = descriptor
        self.max_bytes = max_bytes
        self.written = 0
        self.dropped = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        room = self.max_bytes - self.written
        if len(view) > room:
            self.dropped = True
        if room > 0:
            self._write(view[:room])
        return len(view)

    def _write(self, view: memoryview) -> None:
        while view:
            try:
                count = os.write(self._descriptor, view)
            except OSError:  # closed by user code, or over RLIMIT_FSIZE: `print` is no reason to fail
                self.dropped = True
                return
            self.written += count
            view = view[count:]


def _memory_file(name: str) -> int:
    try:
        return os.memfd_create(name)
    except OSError:  # the sandbox does not let us
        import tempfile

        descriptor, path = tempfile.mkstemp(prefix=name)
        os.unlink(path)  # noqa: PTH108 - pathlib is large
        return descriptor


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Which file that is; None for a closed descriptor."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
