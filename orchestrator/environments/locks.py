"""One build of an environment at a time, across tasks and across server processes: a lock file each."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_LOOK_S = 0.05


class EnvironmentLocks:
    """`<data dir>/locks/<environment id>`. The files stay: to unlink one would race with whoever waits for it."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / "locks"

    @asynccontextmanager
    async def held(self, environment_id: str) -> AsyncIterator[None]:
        """Wait for the lock. It is looked for again and again, since a blocking `flock` could not be cancelled."""
        descriptor = await asyncio.to_thread(self._taken, environment_id)
        while descriptor is None:
            await asyncio.sleep(_LOOK_S)
            descriptor = await asyncio.to_thread(self._taken, environment_id)
        try:
            yield
        finally:
            os.close(descriptor)

    @asynccontextmanager
    async def free(self, environment_id: str) -> AsyncIterator[bool]:
        """Take the lock if nobody has it, and tell whether."""
        descriptor = await asyncio.to_thread(self._taken, environment_id)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _taken(self, environment_id: str) -> int | None:
        """The descriptor that holds the lock until it is closed; None: another does."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Each call opens the file anew, so that two tasks of one process exclude each other as well.
        descriptor = os.open(self._directory / environment_id, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor
