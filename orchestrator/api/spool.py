"""Where files of uploads lie until a call is done with them: on disk, without a name, within bounds for all and each owner."""

import io
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock

from orchestrator.errors import SpoolFull
from orchestrator.settings import Settings

_RETRY_S = 5.0


class Spool:
    """One for an app. Its methods block, and may be called in any thread."""

    def __init__(self, settings: Settings) -> None:
        self._directory: Path = settings.spool_dir
        self._most_bytes = settings.max_spooled_bytes
        self._most_of_owner = settings.max_spooled_bytes_per_owner
        # Not a plain one: a file that is collected while its thread is in `take` frees its room.
        self._lock = RLock()
        self._owners: Counter[str] = Counter()  # bytes of each that has any
        self.bytes = 0

    def of(self, owner: str) -> "Share":
        return Share(self, owner)

    def open(self, owner: str = "") -> "SpoolFile":
        """A new file, which counts for `owner`. Raises SpoolFull: the disk is full, or fails."""
        with _disk_errors():
            self._directory.mkdir(mode=0o700, exist_ok=True)
            raw = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
        return SpoolFile(raw, self, owner)

    def take(self, owner: str, size: int) -> None:
        """Raises SpoolFull: the owner's files together, or all, would be over their bound."""
        with self._lock:
            if self._owners[owner] + size > self._most_of_owner:
                msg = "the files of your uploads together take as much room as one owner may have: try again later"
                raise SpoolFull(msg, after_s=_RETRY_S)
            if self.bytes + size > self._most_bytes:
                msg = "the files of all uploads together take as much room as the server has for them: try again later"
                raise SpoolFull(msg, after_s=_RETRY_S)
            self.bytes += size
            self._owners[owner] += size

    def free(self, owner: str, size: int) -> None:
        with self._lock:
            self.bytes -= size
            self._owners[owner] -= size
            if not self._owners[owner]:
                del self._owners[owner]


class Share:
    """The spool for one owner."""

    def __init__(self, spool: Spool, owner: str) -> None:
        self._spool = spool
        self._owner = owner

    def open(self) -> "SpoolFile":
        """A new file. Raises SpoolFull: the disk is full, or fails."""
        return self._spool.open(self._owner)


class SpoolFile(io.BufferedRandom):
    """Goes, and frees its room, when nothing refers to it any more: a call may outlive the request that it came with."""

    def __init__(self, raw: io.RawIOBase, spool: Spool, owner: str) -> None:
        super().__init__(raw)
        self._spool = spool
        self._owner = owner
        self._taken = 0

    def append(self, data: bytes | bytearray) -> None:
        """Raises SpoolFull."""
        self._spool.take(self._owner, len(data))
        self._taken += len(data)
        with _disk_errors():
            self.write(data)
            self.flush()

    def close(self) -> None:
        self._spool.free(self._owner, self._taken)
        self._taken = 0
        with suppress(OSError):  # what a full disk would not take
            super().close()

    def __del__(self) -> None:
        self.close()


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        msg = "the server has no room on its disk for the files of an upload: try again later"
        raise SpoolFull(msg, after_s=_RETRY_S) from exc
