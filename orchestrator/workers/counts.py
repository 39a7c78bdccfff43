"""What bounds of the whole server need to know of each worker: a page of memory that all share, each with its own numbers.

One writer for a number, and none reads more than a total, so there is nothing to lock.
"""

import mmap
import os

_BYTES = 8


class Counts:
    """The page, open in one process. `descriptor`: of an anonymous file, made by `created`."""

    def __init__(self, descriptor: int, workers: int) -> None:
        self.descriptor = descriptor
        self._workers = workers
        self._memory = mmap.mmap(descriptor, 2 * workers * _BYTES)
        self._numbers = memoryview(self._memory).cast("Q")

    @classmethod
    def created(cls, workers: int) -> "Counts":
        descriptor = os.memfd_create("kodou-counts")
        os.ftruncate(descriptor, 2 * workers * _BYTES)
        return cls(descriptor, workers)

    def connections(self, worker: int, count: int) -> int:
        """Tell one's own. Returns: those of all."""
        self._numbers[worker] = count
        return sum(self._numbers[: self._workers])

    def unread_bytes(self, worker: int, count: int) -> int:
        """Tell one's own. Returns: those of all."""
        self._numbers[self._workers + worker] = count
        return sum(self._numbers[self._workers :])

    def clear(self, worker: int) -> None:
        """It has ended."""
        self.connections(worker, 0)
        self.unread_bytes(worker, 0)

    def close(self) -> None:
        self._numbers.release()
        self._memory.close()
        os.close(self.descriptor)
