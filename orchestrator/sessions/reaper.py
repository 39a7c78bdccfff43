"""Ends idle and expired sessions, tries again what could not be finished, and sweeps up leftovers.

It goes by the registry, the store and the engine; idleness is told by the monotonic clock, so that a jump of the wall
clock ends nothing.
"""

import asyncio
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.auth.tokens import LEEWAY_S
from orchestrator.records import Session, SessionState
from orchestrator.sandboxes.backend import Sandbox
from orchestrator.sandboxes.labels import POOLED, SESSION_LABEL
from orchestrator.sessions.freezing import Freezer
from orchestrator.sessions.lifecycle import Lifecycle
from orchestrator.sessions.live import ENDED, LiveSession, Registry
from orchestrator.sessions.sandboxes import Sandboxes
from orchestrator.sessions.shared import SHARED
from orchestrator.sessions.watch import StoreWatch
from orchestrator.settings import Settings
from orchestrator.store.base import Store
from orchestrator.telemetry import log

SWEEP_S = 60.0  # between looks at the engine for sandboxes that no session has
TIDY_S = 3600.0  # between looks for old records and directories
NOTE_USE = timedelta(seconds=30)  # the store's "last used" may be this far behind
FORGOTTEN_S = 3600.0  # a run directory this old, of no sandbox, is rubbish: no start takes as long

_SANDBOX_ID = re.compile(r"[0-9a-f]{32}")


class Reaper:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        registry: Registry,
        lifecycle: Lifecycle,
        sandboxes: Sandboxes,
        watch: StoreWatch,
        freezer: Freezer,
    ) -> None:
        self._settings = settings
        self._store = store
        self._registry = registry
        self._lifecycle = lifecycle
        self._sandboxes = sandboxes
        self._watch = watch
        self._freezer = freezer
        self._last_swept = time.monotonic()
        self._last_tidied = -TIDY_S

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._settings.reap_interval_s)
            await self.reap()

    async def reap(self) -> None:
        """One pass. What fails is logged and tried again in the next; it keeps nothing else from being done."""
        await self._try("following the store", self._watch.catch_up)
        for live in self._registry:
            await self._try("looking after a session", lambda live=live: self._look_after(live))  # type: ignore[misc]
        await self._try("freezing what is idle", self._freeze_idle)
        await self._try("tending the pool", self._tend_pool)
        if self._sandboxes.shared is not None:
            await self._try("tending shared sandboxes", self._sandboxes.shared.tend)
        now = time.monotonic()
        if now - self._last_swept >= SWEEP_S:
            await self._try("comparing the pool with images", self._compare_pool)
            compared = await self._try("comparing with the store", self._watch.compare)
            if await self._try("sweeping sandboxes", self.sweep) and compared:
                self._last_swept = now  # else in the next pass: an engine that was away comes back with leftovers
        if now - self._last_tidied >= TIDY_S:
            self._last_tidied = now
            await self._try("purging closed sessions", self.purge)
            await self._try("sweeping run directories", self.sweep_run_dir)

    async def _try(self, what: str, step: Callable[[], Awaitable[None]]) -> bool:
        """Whether it was done."""
        try:
            await step()
        except Exception as error:  # an edge: the reaper outlives whatever one step meets
            log.warning("a step of the reaper failed", step=what, error=repr(error))
            return False
        return True

    async def _look_after(self, live: LiveSession) -> None:
        if live.state in ENDED:
            self._lifecycle.close(live, live.machine.reason)  # again, if the last try failed
        elif live.state is SessionState.STARTING or live.calls:
            return
        elif live.expires <= time.time():
            self._lifecycle.close(live, "expired")
        elif live.idle_s() >= live.record.ttl_s:
            self._lifecycle.close(live, "idle")
        elif live.pending:
            await self._lifecycle.carry_out(live, sorted(live.pending))
        elif live.last_used_at() - live.record.last_used_at > NOTE_USE:
            await self._lifecycle.persist(live)

    async def sweep(self) -> None:
        """Stop sandboxes of ours that no session has: what a lost answer of the engine left."""
        owned = await self._sandboxes.owned()
        # All are judged before the first is stopped: what is warm by then may be a session's after.
        held = {live.sandbox.id for live in self._registry if live.sandbox is not None}
        claiming = any(live.state is SessionState.STARTING for live in self._registry)
        left = [sandbox for sandbox in owned if sandbox.id not in held and not self._expected(sandbox, claiming)]
        for sandbox in left:
            log.info("stopping a sandbox that no session has", sandbox=sandbox.id)
            await self._sandboxes.stop(sandbox)

    def _expected(self, sandbox: Sandbox, claiming: bool) -> bool:
        """It is no session's yet, but may become one's. `claiming`: sessions are about to get theirs."""
        session = sandbox.labels[SESSION_LABEL]
        if session == POOLED:
            return claiming or self._sandboxes.pool.holds(sandbox)
        if session == SHARED:
            return self._sandboxes.shared is not None and self._sandboxes.shared.holds(sandbox)
        live = self._registry.get(session)
        return live is not None and live.sandbox is None  # it may be just starting this one

    async def _freeze_idle(self) -> None:
        self._freezer.tend()

    async def _tend_pool(self) -> None:
        self._sandboxes.pool.tend()

    async def _compare_pool(self) -> None:
        await self._sandboxes.pool.compare(self._sandboxes.image)

    async def purge(self) -> None:
        """Forget closed sessions whose tokens have expired: nobody can ask for them any more."""
        past = datetime.now(UTC) - timedelta(seconds=LEEWAY_S)
        for record in await self._store.list(Session, state=SessionState.CLOSED):
            if record.expires_at < past:
                await self._store.delete(Session, record.id)

    async def sweep_run_dir(self) -> None:
        """Remove directories of sandboxes that are long gone."""
        known = {sandbox.id for sandbox in await self._sandboxes.owned()}
        known |= {live.sandbox.id for live in self._registry if live.sandbox is not None}
        await asyncio.to_thread(_sweep, self._settings.run_dir, known)


def _sweep(run_dir: Path, known: set[str]) -> None:
    if not run_dir.is_dir():
        return
    for path in run_dir.iterdir():
        if (
            _SANDBOX_ID.fullmatch(path.name)
            and path.name not in known
            and time.time() - path.lstat().st_mtime > FORGOTTEN_S
        ):
            shutil.rmtree(path, ignore_errors=True)
