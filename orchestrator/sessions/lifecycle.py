"""Carries out what the machine asks for: sandboxes started and stopped, states written to the store."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime

from orchestrator.errors import KodouError, NotFound, SandboxLost
from orchestrator.records import Session, SessionState
from orchestrator.sandboxes import backend
from orchestrator.sandboxes.backend import Image
from orchestrator.sandboxes.channel import RunnerChannel
from orchestrator.sessions import machine
from orchestrator.sessions.background import Background
from orchestrator.sessions.live import ENDED, LiveSession, Registry, ended
from orchestrator.sessions.machine import CloseAsked, Effect, SandboxStarted, SandboxStopped
from orchestrator.sessions.pool import Warm
from orchestrator.sessions.sandboxes import Sandboxes, handle, kept
from orchestrator.store.base import Store
from orchestrator.telemetry import log


class Lifecycle:
    """Each of a session's steps happens once, however many ask for it, and goes on when those who asked have left."""

    def __init__(self, store: Store, sandboxes: Sandboxes, registry: Registry, background: Background) -> None:
        self._store = store
        self._sandboxes = sandboxes
        self._registry = registry
        self._background = background

    async def begin(self, live: LiveSession, image: Image, distributions: tuple[str, ...] | None) -> bool:
        """Start an admitted session. On failure, or when cancelled, nothing of it is left. Whether a warm sandbox, with
        these distributions imported, was there for it.
        Raises `SandboxLost`, `EngineUnavailable`, `StoreBusy`; `SessionExpired` if it was stopped meanwhile."""
        session = live.record
        warm = None if distributions is None else self._sandboxes.claim(image, session, distributions)
        try:
            if warm is not None:
                await self._begin_warm(live, warm)
                return True
            self._sandboxes.pool.make_room()
            # The store first: what a crash leaves on the engine is then known to the store.
            await self._store.add(session)
            try:
                sandbox, channel = await self._sandboxes.start(image, session, distributions or ())
            except NotFound as error:
                msg = "the environment's image was removed just now: try again"
                raise SandboxLost(msg) from error
            await self.take(live, sandbox, channel)
        except BaseException:
            self.close(live, "start_failed")
            raise
        return False

    async def _begin_warm(self, live: LiveSession, warm: Warm) -> None:
        live.record = replace(
            live.record, state=SessionState.READY, sandbox=kept(warm.sandbox, self._sandboxes.instance)
        )
        try:
            await self._store.add(live.record)  # once: all is known already
        except BaseException:
            self._background.spawn(self._sandboxes.stop_warm(warm))
            raise
        await self.take(live, warm.sandbox, warm.channel, stored=True)

    async def take(
        self, live: LiveSession, sandbox: backend.Sandbox, channel: RunnerChannel, *, stored: bool = False
    ) -> None:
        """Give a session its sandbox. `stored`: the store has heard of it. Raises what `begin` does."""
        if live.state in ENDED:  # closed while it started: nobody else has heard of this sandbox
            live.retired.append((sandbox, channel))
            await self._stop(live)
            raise ended(live.machine.reason)
        live.sandbox, live.channel = sandbox, channel
        effects = live.apply(SandboxStarted())
        if not stored:
            await self.carry_out(live, effects)
        if live.state in ENDED:  # another process closed it, as the store has told just now
            raise ended(live.machine.reason)

    async def revive(self, live: LiveSession) -> RunnerChannel:
        """The channel to a fresh sandbox of the same environment. All who call meanwhile wait for the one start.
        Raises what `begin` does; `SessionExpired` if the environment's image is gone."""
        if live.reviving is None:
            live.reviving = self._background.spawn(self._revive(live))
            live.reviving.add_done_callback(lambda _: setattr(live, "reviving", None))
        return await asyncio.shield(live.reviving)

    async def _revive(self, live: LiveSession) -> RunnerChannel:
        if live.channel is not None:
            self.lost(live, live.channel, "its runner is gone")
        if live.state in ENDED:
            raise ended(live.machine.reason)
        image = await self._sandboxes.image(live.record.environment_id)
        if image is None:
            self.close(live, "image_gone")
            raise ended(live.machine.reason)
        try:
            sandbox, channel = await self._sandboxes.start(image, live.record)
        except NotFound:
            self.close(live, "image_gone")
            raise ended(live.machine.reason) from None
        await self.take(live, sandbox, channel)
        return channel

    def lost(self, live: LiveSession, channel: RunnerChannel, reason: str) -> None:
        """Give up the sandbox behind `channel`. Of many calls that find it broken, the first does."""
        if live.channel is channel:
            log.info("sandbox lost", session=live.record.id, reason=reason)
            self._background.spawn(self.carry_out(live, live.apply(machine.SandboxLost(reason))))

    def close(self, live: LiveSession, reason: str) -> "asyncio.Task[None]":
        """End a session for good: from now on it takes no call. To wait, await the task, shielded; what it could not
        do (store, engine) is tried again when this is called again. Raises in the task: `StoreBusy`, `EngineUnavailable`."""
        if live.state not in ENDED:
            live.pending.update(live.apply(CloseAsked(reason)))
        if live.ending is None:
            live.ending = self._background.spawn(self._end(live))
            live.ending.add_done_callback(lambda _: setattr(live, "ending", None))
        return live.ending

    async def close_left(self, record: Session) -> None:
        """Close a session of which only the record, and maybe a sandbox, is left. Raises what `close` does."""
        live = LiveSession(record, SessionState.READY)  # whatever it was: closing goes one way
        live.sandbox = handle(record.sandbox)
        self._registry.add(live)
        reason = record.reason if record.state is SessionState.CLOSING else "lost"
        await asyncio.shield(self.close(live, reason))

    async def _end(self, live: LiveSession) -> None:
        await self.carry_out(live, sorted(live.pending))
        if live.state is SessionState.CLOSING:
            await self.carry_out(live, live.apply(SandboxStopped()))
        if self._registry.remove(live):
            log.info("session closed", session=live.record.id, reason=live.machine.reason)

    async def carry_out(self, live: LiveSession, effects: Collection[Effect]) -> None:
        """What fails is left pending, and does not keep the rest from being done: a full store must not keep a sandbox
        alive. Raises the first failure."""
        failed: KodouError | None = None
        for effect in effects:
            live.pending.add(effect)
            try:
                await (self.persist(live) if effect is Effect.PERSIST else self._stop(live))
            except KodouError as error:
                failed = failed or error
            else:
                live.pending.discard(effect)
        if failed is not None:
            raise failed

    async def _stop(self, live: LiveSession) -> None:
        for retired in tuple(live.retired):
            sandbox, channel = retired
            if channel is not None:
                await channel.aclose()
            await self._sandboxes.stop(sandbox)
            if retired in live.retired:
                live.retired.remove(retired)

    async def persist(self, live: LiveSession) -> None:
        """Write the record as of now. Raises `StoreBusy`."""
        async with live.writing:
            await self._write(live)

    async def _write(self, live: LiveSession) -> None:
        while True:
            state = SessionState.READY if live.state is SessionState.BUSY else live.state
            changed = state is not live.record.state
            record = replace(
                live.record,
                state=state,
                reason=live.machine.reason,
                since=datetime.now(UTC) if changed else live.record.since,
                last_used_at=live.last_used_at(),
                sandbox=kept(live.sandbox, self._sandboxes.instance),
            )
            if await self._store.replace(record, expected=record.revision):
                live.record = replace(record, revision=record.revision + 1)
                return
            # Another process was first, and it can only have been to close the session.
            stored = await self._store.get(Session, record.id)
            if stored is None:
                return
            live.record = stored
            if stored.state in ENDED and live.state not in ENDED:
                self.close(live, stored.reason)
            if stored.state is SessionState.CLOSED:
                return
