"""How another process tells a running server that what it has cached may be stale.

Whoever revokes a key or stops a session writes the store first and bumps the generation after; whoever caches reads
the generation first and the store after. So a cache entry made at the present generation is never stale.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from weakref import finalize

# A file put in the place of the one kept open (a backup restored, a clean-up) is noticed within so long.
LOOK_S = 1.0


class Generation:
    """A file that grows by one byte a bump: its size is exact where a time of change is as coarse as the kernel's tick.
    What one object tells is to be compared with what the same one told before."""

    def __init__(self, data_dir: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = data_dir / "generation"
        self._clock = clock
        # Kept open: every call asks twice, and to look a path up costs three times as much.
        self._descriptor = self._open()
        finalize(self, os.close, self._descriptor)
        self._before = 0  # added to the size: more than was told of the files before this one
        self._look_at = clock() + LOOK_S

    def current(self) -> int:
        """The present generation: a look at the clock and one `lseek`, half a microsecond."""
        now = self._clock()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look()
        return self._before + os.lseek(self._descriptor, 0, os.SEEK_END)

    def bump(self) -> None:
        """Make every cache look again. Raises OSError if the data directory cannot be written."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)

    def _look(self) -> None:
        """Turn to the file that is at the path by now, if it is another. That is a new generation whatever its size."""
        with suppress(OSError):
            if os.path.samestat(self._path.stat(), os.fstat(self._descriptor)):
                return
        self._before += os.lseek(self._descriptor, 0, os.SEEK_END) + 1
        with suppress(OSError):  # none can be read: each look is a new generation, so that nothing revoked stays cached
            another = self._open()
            os.dup2(another, self._descriptor, inheritable=False)
            os.close(another)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
