"""One build under way, or done: shared by all who wait for it, and outliving them."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from orchestrator.errors import KodouError
from orchestrator.records import Environment
from orchestrator.sandboxes.backend import BuildEvent, Image

MAX_REPLAYED = 1000


@dataclass(frozen=True, slots=True)
class Built:
    """`reused`: the image was there already; nothing was built for this setup. `replaced`: the environment that the same
    request stood for until now, if another."""

    environment: Environment
    image: Image
    reused: bool
    replaced: str | None = None


class Build:
    """Used on one event loop only."""

    def __init__(self) -> None:
        self._result: asyncio.Future[Built] = asyncio.get_running_loop().create_future()
        self._count = 0
        self._recent: deque[BuildEvent] = deque(maxlen=MAX_REPLAYED)  # the last ones, numbered up to `_count`
        self._phases: list[BuildEvent] = []  # first of each run of one phase, as far as `_recent` has dropped them
        self._dropped_phase: str | None = None
        self._news = asyncio.Event()
        self.turn_came: float | None = None  # time.perf_counter(), once it no longer waits for other builds

    @classmethod
    def done(cls, built: Built) -> "Build":
        """One that had nothing to do."""
        build = cls()
        build.finish(built)
        return build

    async def events(self) -> AsyncIterator[BuildEvent]:
        """What has happened (of much, the last 1,000 events and each change of phase), then what happens, to the end."""
        seen = 0
        for event in tuple(self._phases):
            yield event
        while True:
            news, first = self._news, self._count - len(self._recent)
            fresh = tuple(islice(self._recent, max(0, seen - first), None))
            seen = self._count
            for event in fresh:
                yield event
            if seen == self._count:
                if self.ended():
                    return
                await news.wait()

    async def result(self) -> Built:
        """Wait for the end. The waiter may be cancelled; the build goes on. Raises the build's `KodouError`."""
        return await asyncio.shield(self._result)

    def ended(self) -> bool:
        return self._result.done()

    def publish(self, event: BuildEvent) -> None:
        if len(self._recent) == MAX_REPLAYED and self._recent[0].phase != self._dropped_phase:
            self._dropped_phase = self._recent[0].phase
            self._phases.append(self._recent[0])
        self._recent.append(event)
        self._count += 1
        self._wake()

    async def forward(self, events: AsyncIterator[BuildEvent]) -> None:
        """Publish what another part tells; its generator is closed at once, whatever happens here."""
        try:
            async for event in events:
                self.publish(event)
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    def finish(self, built: Built) -> None:
        self.publish(BuildEvent("ready"))
        self._result.set_result(built)
        self._wake()

    def fail(self, error: KodouError) -> None:
        self._result.set_exception(error)
        with suppress(KodouError):  # seen: that nobody waits any longer is no reason for a warning
            self._result.result()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
