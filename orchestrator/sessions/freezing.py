"""Freezes the sandboxes of sessions that nobody calls, and thaws each for its next call.

What is frozen takes no processor time; its threads and programs stand still. A call that comes meanwhile, or while a sandbox
is just freezing, waits for the thaw, which is bounded: one that does not thaw is given up, and the call runs in a fresh one.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter

from orchestrator.errors import EngineUnavailable, KodouError, SandboxLost
from orchestrator.records import SessionState
from orchestrator.sandboxes.backend import Sandbox
from orchestrator.sandboxes.channel import RunnerChannel
from orchestrator.sessions.background import Background
from orchestrator.sessions.lifecycle import Lifecycle
from orchestrator.sessions.live import Frozen, LiveSession, Registry
from orchestrator.sessions.sandboxes import Sandboxes
from orchestrator.sessions.shared import is_slot
from orchestrator.settings import Settings
from orchestrator.telemetry import FROZEN_SANDBOXES, log

THAW_S = 10.0  # from a call's arrival until its sandbox runs, freezing that is under way included
AT_ONCE = 4  # behind; so that starts and calls find the engine free


class Freezer:
    """One for a server. Belongs to its event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        sandboxes: Sandboxes,
        lifecycle: Lifecycle,
        background: Background,
    ) -> None:
        self._after_s = settings.freeze_idle_s
        self._registry = registry
        self._sandboxes = sandboxes
        self._lifecycle = lifecycle
        self._background = background
        self._passing: asyncio.Task[None] | None = None
        self._told = False

    def tend(self) -> None:
        """Have those frozen that have been idle for long enough. Now and then, by the reaper."""
        self._measure()
        if self._passing is None or self._passing.done():
            due = [live for live in self._registry if self._is_due(live)]
            if due:
                self._passing = self._background.spawn(_each(due, self._freeze))

    async def thawed(self, live: LiveSession, frozen: Frozen) -> float:
        """Before a call: returns once its sandbox runs, or has been given up; the seconds that took, 0 if it ran. Calls
        leave here in the order in which they came."""
        began = 0.0 if frozen.runs else perf_counter()
        frozen.calls += 1
        try:
            async with frozen.door:
                if not frozen.runs:
                    if frozen.thawing is None:
                        frozen.thawing = self._background.spawn(self._thaw(live, frozen, live.sandbox, live.channel))
                    await asyncio.shield(frozen.thawing)
        finally:
            frozen.calls -= 1
            self._settle(live, frozen)
        return perf_counter() - began if began else 0.0

    def close(self) -> None:
        """Freeze no more, and thaw all: nothing but what runs can end itself if no server comes back for it."""
        self._after_s = 0.0
        frozen = [live for live in self._registry if live.frozen is not None]
        if frozen:
            self._background.spawn(_each(frozen, self._leave))

    def _is_due(self, live: LiveSession) -> bool:
        return (
            0.0 < self._after_s <= live.idle_s()
            and live.state is SessionState.READY
            and live.frozen is None
            and live.channel is not None
            and live.channel.alive()
            and live.channel.idle()
            and live.sandbox is not None
            and not is_slot(live.sandbox)  # others are in there
        )

    async def _freeze(self, live: LiveSession) -> None:
        if live.sandbox is None or not self._is_due(live):  # any more
            return
        frozen = live.frozen = Frozen()  # before the first await: who calls from now on has it thawed
        try:
            frozen.runs = not await self._may_be_frozen(live.sandbox)
        finally:
            frozen.done.set()
            self._measure()

    async def _may_be_frozen(self, sandbox: Sandbox) -> bool:
        """Freeze it. One that cannot be is not tried again before its next call."""
        try:
            able = await self._sandboxes.freeze(sandbox)
        except SandboxLost:
            return False
        except EngineUnavailable as error:
            log.warning("a sandbox was not frozen", sandbox=sandbox.id, reason=error.detail)
            return True
        if not able and not self._told:
            self._told = True
            log.warning("idle sandboxes cannot be frozen here: see `kodou doctor`", backend=sandbox.backend)
        return able

    async def _thaw(
        self, live: LiveSession, frozen: Frozen, sandbox: Sandbox | None, channel: RunnerChannel | None
    ) -> None:
        """For all who call: it goes on when they leave."""
        if sandbox is None or channel is None or not channel.alive():
            return  # whoever calls gets a fresh one
        try:
            async with asyncio.timeout(THAW_S):
                await frozen.done.wait()
                if not frozen.runs:
                    await self._sandboxes.thaw(sandbox)
        except TimeoutError:
            self._lifecycle.lost(live, channel, "it did not thaw in time")
        except KodouError as error:
            self._lifecycle.lost(live, channel, f"it did not thaw: {error.detail}")
        finally:
            frozen.runs = True
            self._settle(live, frozen)
            self._measure()

    async def _leave(self, live: LiveSession) -> None:
        """Thaw it for nobody. What does not is thawed by the next server that takes it up."""
        frozen = live.frozen
        if frozen is None:
            return
        await frozen.done.wait()
        if live.sandbox is not None and not frozen.runs:
            try:
                await self._sandboxes.thaw(live.sandbox)
            except KodouError as error:
                log.warning("a sandbox is left frozen", sandbox=live.sandbox.id, reason=error.detail)

    def _settle(self, live: LiveSession, frozen: Frozen) -> None:
        """Calls go straight to the sandbox again, once it runs and none is left at the door."""
        if frozen.runs and not frozen.calls and live.frozen is frozen:
            live.frozen = None

    def _measure(self) -> None:
        FROZEN_SANDBOXES.set(
            sum(1 for live in self._registry if live.frozen and live.frozen.done.is_set() and not live.frozen.runs)
        )


async def _each(lives: Iterable[LiveSession], work: Callable[[LiveSession], Awaitable[None]]) -> None:
    """Do it for all, a few at once."""
    left = deque(lives)

    async def some() -> None:
        while left:
            await work(left.popleft())

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
