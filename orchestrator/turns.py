"""Turns at something that only so many may do at once, fair among those they are for."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Turns:
    """A semaphore whose waiters are let in owner by owner: a crowd of one owner's keeps another's waiting for one turn,
    not for all of them. For one event loop."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # who is next comes first
        self._yielding: deque[asyncio.Future[None]] = deque()  # let in when nobody else waits

    async def acquire(self, owner: str) -> None:
        """Wait for a turn, to be ended with `release`. Cancelled, it leaves the queue."""
        await self._acquire(lambda: self._waiting.setdefault(owner, deque()))

    async def acquire_spare(self) -> None:
        """As `acquire`, for what nobody waits for: any owner's turn comes first."""
        await self._acquire(lambda: self._yielding)

    async def _acquire(self, queue: Callable[[], deque[asyncio.Future[None]]]) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue().append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # it came just now
            raise

    def release(self) -> None:
        """End a turn: the next one's begins."""
        while self._waiting:
            owner, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[owner] = queue  # behind the others
            if not turn.done():  # else it was cancelled while it waited
                turn.set_result(None)
                return
        while self._yielding:
            turn = self._yielding.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        await self.acquire(owner)
        try:
            yield
        finally:
            self.release()
