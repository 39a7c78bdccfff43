"""Work that goes on behind what a client asked for."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from orchestrator.telemetry import log

T = TypeVar("T")


class Background:
    """Tasks that nobody awaits now, kept from the garbage collector and awaited in the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def finished(self, timeout_s: float) -> None:
        """Wait for all of them, those that come meanwhile too."""
        deadline = time.monotonic() + timeout_s
        while self._tasks and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("work on a session failed", error=repr(error))
