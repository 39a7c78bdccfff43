"""Warm sandboxes: started, imports done, workers made, waiting for the session that claims them. Used once, like any other.

Each kind has as many as sessions of it were opened lately, within bounds on the number and the memory of all. They refill
behind the claim, and go when nobody has asked for their kind for a while. Nothing of it can fail a setup: a claim that
finds none, or one that has died, starts a sandbox the usual way.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from orchestrator.errors import KodouError, NotFound
from orchestrator.records import Resources, Session
from orchestrator.sandboxes.backend import Image, Sandbox
from orchestrator.sandboxes.channel import RunnerChannel
from orchestrator.settings import Settings
from orchestrator.telemetry import POOL_CLAIMS, POOL_SANDBOXES, log

MB = 1024 * 1024
# Claims of so long ago tell how many are wanted next.
DEMAND_S = 30.0
# What one is taken to need until the first of its kind has said so; and at least, whatever it says.
LEAST_BYTES = 16 * MB
# From a claim to what it sets off: its session's first call goes first.
BEHIND_S = 0.05
# After a start that failed, or one that died while it waited: longer with each in a row, so that a broken environment
# does not keep the engine busy.
AGAIN_S = 30.0
_MOST_DOUBLINGS = 5
_DIED = "it died while it waited"


@dataclass(frozen=True, slots=True)
class Kind:
    """What makes one sandbox as good as another. `distributions`: those whose modules are imported, in order."""

    environment_id: str
    resources: Resources
    distributions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Warm:
    """`bytes`: the memory that its runner says it takes."""

    sandbox: Sandbox
    channel: RunnerChannel
    bytes: int


class Starter(Protocol):
    """Who starts and stops them."""

    async def start_warm(self, image: Image, kind: Kind) -> Warm:
        """Once no session's start waits. Raises `KodouError`; then, or when it is cancelled, nothing is left."""

    async def stop_warm(self, warm: Warm) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Let it run behind."""


class _Shelf:
    """The warm sandboxes of one kind."""

    def __init__(self, kind: Kind, image: Image, owner: str, most: int) -> None:
        self.kind = kind
        self.image = image
        self.owner = owner  # who asked last
        self.bytes = LEAST_BYTES  # that the largest so far took
        self.ready: deque[Warm] = deque()
        self.refill: asyncio.Task[None] | None = None
        self.claims: deque[float] = deque(maxlen=most)
        self.failures = 0  # since one was claimed that lives; to have greeted is not enough
        self.not_before = 0.0

    def wanted(self, now: float, idle_s: float) -> int:
        """How many there should be: as many as were asked for lately, one as long as it is in use at all."""
        if not self.claims or now - self.claims[-1] > idle_s:
            return 0
        while len(self.claims) > 1 and now - self.claims[0] > DEMAND_S:
            self.claims.popleft()
        return len(self.claims)


class Pool:
    """One for a server. Belongs to its event loop. `sessions`: how many there are, which warm ones make room for."""

    def __init__(
        self,
        settings: Settings,
        starter: Starter,
        sessions: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._starter = starter
        self._sessions = sessions
        self._clock = clock
        self._shelves: dict[Kind, _Shelf] = {}
        self._starting: dict[_Shelf, int] = {}  # and the bytes that each is taken to need
        self._closed = False

    def claim(self, image: Image, session: Session, distributions: tuple[str, ...]) -> Warm | None:
        """One that nobody else gets, if there is; more are started behind. None: there is none that fits.

        Sessions with variables of their own, egress's included, are not served: those have to be there before imports.
        """
        if self._closed or not self._settings.pool_memory_mb or session.env or session.network != "none":
            return None
        shelf = self._shelf(Kind(session.environment_id, session.resources, distributions), image, session.owner)
        now = self._clock()
        shelf.claims.append(now)
        shelf.owner = session.owner
        warm = self._take(shelf)
        POOL_CLAIMS.labels("miss" if warm is None else "hit").inc()
        self._keep_within(0)
        self._begin_refill(shelf)
        self._measure()
        return warm

    def make_room(self) -> None:
        """For sessions that have sandboxes of their own."""
        self._keep_within(0)
        self._measure()

    def image(self, environment_id: str) -> Image | None:
        """The environment's image, if a warm sandbox runs on it."""
        for shelf in self._shelves.values():
            if shelf.kind.environment_id == environment_id and any(warm.channel.alive() for warm in shelf.ready):
                return shelf.image
        return None

    def holds(self, sandbox: Sandbox) -> bool:
        """It is one of these, or may be: some are just starting."""
        return bool(self._starting) or any(warm.sandbox.id == sandbox.id for warm in self._all())

    def tend(self) -> None:
        """Let go of what is dead or wanted no more, and start what is missing. Now and then."""
        now = self._clock()
        for shelf in list(self._shelves.values()):
            wanted = shelf.wanted(now, self._settings.pool_idle_s)
            if not wanted:
                self._drop(shelf)
                continue
            died = False
            for warm in list(shelf.ready):
                alive = warm.channel.alive()
                died = died or not alive
                if not alive or len(shelf.ready) > wanted:
                    shelf.ready.remove(warm)
                    self._let_go(warm)
            if died:
                self._failed(shelf, _DIED)
            self._begin_refill(shelf)
        self.make_room()

    async def compare(self, find: Callable[[str], Coroutine[Any, Any, Image | None]]) -> None:
        """Drain what stands on images that `find` finds no more, or others in their place. Raises what it raises."""
        for shelf in list(self._shelves.values()):
            if not _same(await find(shelf.kind.environment_id), shelf.image):
                self._drop(shelf)

    def drain(self, environment_id: str) -> None:
        """Let go of all of an environment, which is asked for no more."""
        for shelf in [each for each in self._shelves.values() if each.kind.environment_id == environment_id]:
            self._drop(shelf)

    def close(self) -> None:
        """Let go of all, those that are just starting too."""
        self._closed = True
        for shelf in list(self._shelves.values()):
            self._drop(shelf)

    def _shelf(self, kind: Kind, image: Image, owner: str) -> _Shelf:
        shelf = self._shelves.get(kind)
        if shelf is not None and not _same(shelf.image, image):  # it was built anew
            self.drain(kind.environment_id)
            shelf = None
        if shelf is None:
            shelf = self._shelves[kind] = _Shelf(kind, image, owner, self._settings.pool_sandboxes)
        return shelf

    def _take(self, shelf: _Shelf) -> Warm | None:
        died = False
        while shelf.ready:
            warm = shelf.ready.popleft()
            if warm.channel.alive():
                shelf.failures = 0
                return warm
            died = True
            self._let_go(warm)
        if died:
            self._failed(shelf, _DIED)
        return None

    # --- starting ---

    def _begin_refill(self, shelf: _Shelf) -> None:
        if shelf.refill is None and not self._closed:
            shelf.refill = self._starter.spawn(self._refill(shelf))

    async def _refill(self, shelf: _Shelf) -> None:
        """Start one after another until there are enough."""
        try:
            await asyncio.sleep(BEHIND_S)
            while self._may_start(shelf):
                self._starting[shelf] = shelf.bytes
                try:
                    warm = await self._starter.start_warm(shelf.image, shelf.kind)
                finally:
                    del self._starting[shelf]
                # What a runner says of its memory is a hint: never less than any takes, nor more than it may.
                bytes = min(max(warm.bytes, LEAST_BYTES), shelf.kind.resources.memory_mb * MB)
                shelf.bytes = max(shelf.bytes, bytes)
                shelf.ready.append(replace(warm, bytes=bytes))
                self._keep_within(0)
                self._measure()
        except NotFound:
            self._drop(shelf)  # its image is gone
        except KodouError as error:
            self._failed(shelf, error.detail)
        finally:
            shelf.refill = None

    def _failed(self, shelf: _Shelf, reason: str) -> None:
        """Start none for a while. Called once for all that are found dead together: they may have died of one thing."""
        shelf.not_before = self._clock() + AGAIN_S * 2 ** min(shelf.failures, _MOST_DOUBLINGS)
        shelf.failures += 1
        log.info("no warm sandbox", environment=shelf.kind.environment_id, reason=reason)

    def _may_start(self, shelf: _Shelf) -> bool:
        now = self._clock()
        if now < shelf.not_before or len(shelf.ready) >= shelf.wanted(now, self._settings.pool_idle_s):
            return False
        return self._keep_within(shelf.bytes, shelf)

    # --- bounds ---

    def _keep_within(self, needed: int, wanting: _Shelf | None = None) -> bool:
        """Let go of warm ones until all are within bounds, with one more of so many bytes for `wanting`, if given.
        False: there is no room for that one, and none has gone for it."""
        going: list[tuple[_Shelf, Warm]] = []
        while self._over(needed, 0 if wanting is None else 1):
            last = self._least_deserving(needed, wanting)
            if last is None or last is wanting:
                for shelf, warm in reversed(going):
                    shelf.ready.appendleft(warm)
                return False
            going.append((last, last.ready.popleft()))
        for _, warm in going:
            self._let_go(warm)
        return True

    def _over(self, bytes: int, count: int) -> bool:
        count += len(self._starting) + sum(1 for _ in self._all())
        bytes += sum(self._starting.values()) + sum(warm.bytes for warm in self._all())
        return count > 0 and (
            bytes > self._settings.pool_memory_mb * MB
            or count > self._settings.pool_sandboxes
            or count + self._sessions() > self._settings.max_sessions
        )

    def _least_deserving(self, needed: int, wanting: _Shelf | None) -> _Shelf | None:
        """Of the owner who holds most, what was not asked for the longest: who asks for ever new kinds displaces
        their own."""
        held = Counter[str]()
        for shelf in self._shelves.values():
            held[shelf.owner] += sum(warm.bytes for warm in shelf.ready) + self._starting.get(shelf, 0)
        if wanting is not None:
            held[wanting.owner] += needed
        shelves = [each for each in self._shelves.values() if each.ready or each is wanting]
        return min(shelves, key=lambda each: (-held[each.owner], each.claims[-1]), default=None)

    # --- ending ---

    def _drop(self, shelf: _Shelf) -> None:
        if self._shelves.get(shelf.kind) is shelf:
            del self._shelves[shelf.kind]
        shelf.claims.clear()  # nothing is wanted any more
        while shelf.ready:
            self._let_go(shelf.ready.popleft())
        if shelf.refill is not None and shelf.refill is not asyncio.current_task():
            shelf.refill.cancel()
        self._measure()

    def _let_go(self, warm: Warm) -> None:
        self._starter.spawn(self._starter.stop_warm(warm))

    def _all(self) -> Iterator[Warm]:
        return (warm for shelf in self._shelves.values() for warm in shelf.ready)

    def _measure(self) -> None:
        POOL_SANDBOXES.set(sum(1 for _ in self._all()))


def _same(one: Image | None, other: Image) -> bool:
    return one is not None and (one.ref, one.created_at) == (other.ref, other.created_at)
