"""How another process tells a running server that what it has cached may be stale.

Whoever revokes a key or stops a session writes the store first and bumps the generation after; whoever caches reads
the generation first and the store after. So a cache entry made at the present generation is never stale.
"""

import os
from pathlib import Path
from weakref import finalize


class Generation:
    """A file that grows by one byte a bump: its size is exact where a time of change is as coarse as the kernel's tick."""

    def __init__(self, data_dir: Path) -> None:
        self._path = os.fspath(data_dir / "generation")
        # Kept open: every call asks twice, and to look a path up costs three times as much.
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        finalize(self, os.close, self._descriptor)

    def current(self) -> int:
        """The present generation: one `lseek`, half a microsecond."""
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def bump(self) -> None:
        """Make every cache look again. Raises OSError if the data directory cannot be written."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)
