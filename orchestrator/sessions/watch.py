"""Holds the live sessions against the store, where another process may have closed one (`kodou sessions stop`)."""

import asyncio

from orchestrator.auth.generation import Generation
from orchestrator.errors import KodouError
from orchestrator.records import Session, SessionState
from orchestrator.sessions.lifecycle import Lifecycle
from orchestrator.sessions.live import ENDED, STOPPED, UNCLOSED, Registry
from orchestrator.settings import Settings
from orchestrator.store.base import Store
from orchestrator.telemetry import log


class StoreWatch:
    """Cheap to ask on every call: one look at the generation file."""

    def __init__(
        self, settings: Settings, store: Store, registry: Registry, lifecycle: Lifecycle, instance: str
    ) -> None:
        self._store = store
        self._registry = registry
        self._lifecycle = lifecycle
        self._instance = instance
        self._generation = Generation(settings.data_dir)
        self._seen = self._generation.current()
        self._lock = asyncio.Lock()

    def behind(self) -> bool:
        """Another process has written since the last look."""
        return self._generation.current() != self._seen

    async def catch_up(self) -> None:
        """Look, if there may be something new. What was closed elsewhere takes no call once this returns.
        Raises `StoreBusy`."""
        async with self._lock:
            seen = self._generation.current()  # before the store is read: what comes after is seen next time
            if seen != self._seen:
                await self.compare()
                self._registry.forget_tokens()  # the key that one was verified with may have been retired
                self._seen = seen

    async def compare(self) -> None:
        """Close live sessions that the store has closed, and close in the store what is not live. Raises `StoreBusy`."""
        # Before the store is read: one that becomes ready meanwhile may be missing in what was read.
        lives = [live for live in self._registry if live.state not in (SessionState.STARTING, *ENDED)]
        stored = {record.id: record for record in await self._store.list(Session, state=UNCLOSED)}
        for live in lives:
            record = stored.get(live.record.id)
            if record is None or record.state is SessionState.CLOSING:
                self._lifecycle.close(live, STOPPED)
        for record in stored.values():
            if record.sandbox.get("instance") == self._instance and self._registry.get(record.id) is None:
                try:
                    await self._lifecycle.close_left(record)
                except KodouError as error:  # it stays in the registry, closing; the reaper comes again
                    log.warning("a leftover session is not closed yet", session=record.id, error=repr(error))
