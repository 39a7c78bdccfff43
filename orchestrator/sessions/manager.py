"""The door to sessions: opened, called, listed and closed here, by their owner only."""

import asyncio
import secrets
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from orchestrator.auth.keys import Principal
from orchestrator.auth.tokens import NO_SUCH_SESSION, Tokens
from orchestrator.errors import KodouError, RateLimited, SessionExpired, SessionNotFound, ShuttingDown
from orchestrator.records import Environment, Resources, Session, SessionState
from orchestrator.sandboxes.backend import Image, SandboxBackend
from orchestrator.sandboxes.content import Held
from orchestrator.sandboxes.events import Events
from orchestrator.sandboxes.instance import instance_id
from orchestrator.sandboxes.replies import InForm, Reply, Typed, Violation
from orchestrator.sandboxes.work import Work
from orchestrator.sessions import recovery
from orchestrator.sessions.background import Background
from orchestrator.sessions.freezing import Freezer
from orchestrator.sessions.lifecycle import Lifecycle
from orchestrator.sessions.live import CLOSED_BY_OWNER, ENDED, UNCLOSED, LiveSession, Registry, ended
from orchestrator.sessions.machine import CallBegan, CallEnded
from orchestrator.sessions.reaper import Reaper
from orchestrator.sessions.sandboxes import Sandboxes, kept
from orchestrator.sessions.watch import StoreWatch
from orchestrator.settings import Settings
from orchestrator.store.base import Store
from orchestrator.telemetry import log

CALLS_RETRY_S = 1.0
LAST_WORK_S = 15.0  # for what is still being stopped when the server ends

_CALL_BEGAN = CallBegan()
_CALL_ENDED = CallEnded()


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What a setup asks for; within the settings' limits already."""

    resources: Resources
    network: str
    env: dict[str, str]
    ttl_s: int
    # Asked for by name, in order: warm sandboxes have imported their modules. None: a warm one is not wanted.
    distributions: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """`warm`: its sandbox was waiting for it."""

    session: Session
    sessionid: str
    warm: bool


@dataclass(slots=True)
class CallOutcome:
    """`restarted`: the call ran in a fresh sandbox, since the session's had ended before it. It waited for its turn, for
    that sandbox, and ran, for so many seconds; and for a frozen one to thaw."""

    reply: Reply
    restarted: bool
    queued_s: float
    started_s: float
    ran_s: float
    thawed_s: float = 0.0


class SessionManager:
    """One for a data directory. To be made before the event loop runs: it reads a file or two."""

    def __init__(self, settings: Settings, store: Store, backend: SandboxBackend, tokens: Tokens) -> None:
        self._settings = settings
        self._store = store
        self._tokens = tokens
        self._registry = Registry(settings)
        self._background = Background()
        self._sandboxes = Sandboxes(
            settings, backend, instance_id(settings.data_dir), self._background, lambda: len(self._registry)
        )
        self._lifecycle = Lifecycle(store, self._sandboxes, self._registry, self._background)
        self._watch = StoreWatch(settings, store, self._registry, self._lifecycle, self._sandboxes.instance)
        self._freezer = Freezer(settings, self._registry, self._sandboxes, self._lifecycle, self._background)
        self._reaper = Reaper(
            settings, store, self._registry, self._lifecycle, self._sandboxes, self._watch, self._freezer
        )
        self._reaping: asyncio.Task[None] | None = None
        self._claim: recovery.Claim | None = None
        self._under_way = 0  # opens and calls
        self._draining = False
        self._letting_go = False
        self._quiet = asyncio.Event()

    async def start(self) -> None:
        """Take up the sessions of an earlier server whose sandboxes answer, end the rest, and start to reap.
        Raises `KodouError` if a server runs on this data directory, `EngineUnavailable`, `StoreBusy`."""
        self._claim = await asyncio.to_thread(recovery.Claim, self._settings.data_dir / "locks" / "server")
        await recovery.recover(self._store, self._sandboxes, self._registry, self._lifecycle)
        self._reaping = asyncio.create_task(self._reaper.run())

    def check_room(self, owner: str) -> None:
        """Raises `RateLimited`: an `open` now would, so there is no use in preparing one."""
        self._registry.check_room(owner)

    async def open(
        self, principal: Principal, environment: Environment, image: Image, options: SessionOptions
    ) -> Opened:
        """Start a sandbox of `image` for the principal's owner; returns once its runner is ready for calls.
        Raises `RateLimited`, `SandboxLost`, `EngineUnavailable`, `StoreBusy`, `ShuttingDown`."""
        self._check_not(self._draining)
        now = datetime.now(UTC)
        live = LiveSession(
            Session(
                id=secrets.token_hex(16),
                owner=principal.owner,
                key_id=principal.key_id,
                environment_id=environment.id,
                resources=options.resources,
                network=options.network,
                env=options.env,
                ttl_s=options.ttl_s,
                state=SessionState.STARTING,
                reason="",
                since=now,
                created_at=now,
                last_used_at=now,
                # Whole seconds, as the token has them.
                expires_at=now.replace(microsecond=0) + timedelta(seconds=self._settings.session_max_age_s),
                sandbox=kept(None, self._sandboxes.instance),
            ),
            SessionState.STARTING,
        )
        self._registry.admit(live)
        self._under_way += 1
        try:
            warm = await self._lifecycle.begin(live, image, options.distributions)
        finally:
            self._one_less()
        sessionid = self._tokens.session_id(live.record)
        self._registry.remember(sessionid, live)
        return Opened(live.record, sessionid, warm)

    async def call(
        self,
        sessionid: str,
        principal: Principal,
        work: Work,
        *,
        timeout_s: float,
        until: float | None = None,
        events: Events | None = None,
    ) -> CallOutcome:
        """Run one request; `timeout_s` counts from its turn, `until` is in the loop's time. After a `Violation` the next
        gets a fresh sandbox, and so does one that was not sent by then. `events` get what it tells before its reply, and
        are ended with it.
        Raises `SessionNotFound`, `SessionExpired`, `RateLimited`, `ShuttingDown`; `SandboxLost`, `EngineUnavailable`,
        `StoreBusy` if a fresh sandbox is due and does not start."""
        live = self.cached(sessionid, principal) or await self.find(sessionid, principal)
        self._check_not(self._draining)
        if live.calls > self._settings.max_waiting_calls:
            msg = f"{self._settings.max_waiting_calls} calls wait in this session already"
            raise RateLimited(msg, after_s=CALLS_RETRY_S)
        live.calls += 1
        self._under_way += 1
        content = False
        try:
            outcome = await self._run(live, work, timeout_s, until, events)
            if isinstance(outcome.reply, Violation) and not outcome.reply.sent:
                outcome = await self._run(live, work, timeout_s, until, events)
            if isinstance(outcome.reply, Typed | InForm):  # under way until that is read
                held = Held(outcome.reply.content, partial(self._call_ended, live))
                outcome.reply = replace(outcome.reply, content=held)
                content = True
            return outcome
        finally:
            if not content:
                self._call_ended(live)
            if events is not None:
                events.end()

    def _call_ended(self, live: LiveSession) -> None:
        live.calls -= 1
        live.last_used = time.monotonic()
        if not live.calls and live.machine.state is SessionState.BUSY:
            live.machine.apply(_CALL_ENDED)
        self._one_less()

    async def _run(
        self, live: LiveSession, work: Work, timeout_s: float, until: float | None, events: Events | None
    ) -> CallOutcome:
        started_s = thawed_s = 0.0
        if live.frozen is not None:
            thawed_s = await self._freezer.thawed(live, live.frozen)
        channel = live.channel
        if channel is None or not channel.alive():
            began = time.perf_counter()
            channel = await self._lifecycle.revive(live)
            started_s = time.perf_counter() - began
        if live.machine.state is SessionState.READY:
            live.machine.apply(_CALL_BEGAN)
        run = await channel.call(work, timeout_s=timeout_s, until=until, events=events)
        if isinstance(run.reply, Violation):
            if live.state in ENDED:
                raise ended(live.machine.reason)
            self._check_not(self._letting_go)  # it is we who have closed the channel; the sandbox stays
            self._lifecycle.lost(live, channel, run.reply.reason)
        return CallOutcome(run.reply, started_s > 0, run.queued_s, started_s, run.ran_s, thawed_s)

    def cached(self, sessionid: str, principal: Principal) -> LiveSession | None:
        """The session of a token that was verified before; None: ask `find`. A microsecond or two."""
        live = self._registry.by_token.get(sessionid)
        if live is None or live.record.owner != principal.owner or live.expires <= time.time() or self._watch.behind():
            return None
        return live

    async def find(self, sessionid: str, principal: Principal) -> LiveSession:
        """Raises `SessionNotFound`: unknown, another's, or closed by its owner; `SessionExpired`: ended otherwise;
        `StoreBusy`."""
        await self._watch.catch_up()
        claims = self._tokens.read_session(sessionid, owner=principal.owner)
        live = self._registry.get(claims.session_id)
        if live is None:
            raise await self._gone(claims.session_id, principal.owner)
        if live.record.owner != principal.owner:
            raise SessionNotFound(NO_SUCH_SESSION)
        if live.state in ENDED:
            raise ended(live.machine.reason)
        self._registry.remember(sessionid, live)
        return live

    async def close(self, sessionid: str, principal: Principal) -> None:
        """End the session and its sandbox. One of the caller's that has ended already is success.
        Raises `SessionNotFound`: unknown or another's; `StoreBusy`, `EngineUnavailable`: it takes no more calls, and
        the rest is tried again."""
        try:
            claims = self._tokens.read_session(sessionid, owner=principal.owner)
        except SessionExpired:
            return
        live = self._registry.get(claims.session_id)
        if live is None:
            await self._gone(claims.session_id, principal.owner)
        elif live.record.owner != principal.owner:
            raise SessionNotFound(NO_SUCH_SESSION)
        else:
            await asyncio.shield(self._lifecycle.close(live, CLOSED_BY_OWNER))

    async def list(self, owner: str | None) -> list[Session]:
        """Sessions that have not closed, of one owner or of all (None), oldest first."""
        where = {} if owner is None else {"owner": owner}
        stored = await self._store.list(Session, state=UNCLOSED, **where)
        lives = ((record, self._registry.get(record.id)) for record in stored)
        return [record if live is None else live.shown() for record, live in lives]

    def warm_image(self, environment_id: str) -> Image | None:
        """The environment's image, if a warm sandbox runs on it."""
        return self._sandboxes.pool.image(environment_id)

    def replaced(self, environment_id: str) -> None:
        """Another environment has taken its place: keep no sandboxes ready for it."""
        self._sandboxes.pool.drain(environment_id)
        if self._sandboxes.shared is not None:
            self._sandboxes.shared.drain(environment_id)

    async def drain(self, deadline_s: float) -> None:
        """Take no more opens and calls, and wait up to `deadline_s` for those under way."""
        self._draining = True
        if self._under_way:
            try:
                await asyncio.wait_for(self._quiet.wait(), deadline_s)
            except TimeoutError:
                log.warning("calls still run at the end of the drain", calls=self._under_way)

    async def aclose(self) -> None:
        """Let go of sessions (`keep_sessions`), or end them. May be called twice."""
        self._draining = True
        if self._reaping is not None:
            self._reaping.cancel()
            await asyncio.wait([self._reaping])
        self._sandboxes.pool.close()
        for live in self._registry:
            if not self._settings.keep_sessions or live.state is SessionState.STARTING:
                self._lifecycle.close(live, "shutdown")
        self._freezer.close()
        await self._background.finished(LAST_WORK_S)
        self._letting_go = True
        for live in self._registry:
            if live.channel is not None:
                await live.channel.aclose()
        if self._sandboxes.shared is not None:
            await self._sandboxes.shared.aclose()
        if self._claim is not None:
            self._claim.release()

    def _one_less(self) -> None:
        self._under_way -= 1
        if self._draining and not self._under_way:
            self._quiet.set()

    def _check_not(self, leaving: bool) -> None:
        if leaving:
            msg = "the server is shutting down"
            raise ShuttingDown(msg)

    async def _gone(self, id: str, owner: str) -> KodouError:
        """Why a session is not here. Raises `SessionNotFound` if it was never the owner's."""
        stored = await self._store.get(Session, id)
        if stored is None or stored.owner != owner:
            raise SessionNotFound(NO_SUCH_SESSION)
        return ended(stored.reason) if stored.state in ENDED else SessionNotFound(NO_SUCH_SESSION)
