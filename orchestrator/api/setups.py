"""One setup, from its body to a session: what the three ways to wait for it (reply, stream, poll) have in common."""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

from orchestrator import telemetry
from orchestrator.api import replies
from orchestrator.api.options import lock_document, session_options
from orchestrator.api.parts import Parts
from orchestrator.api.problems import Header
from orchestrator.api.receipts import COLD_ENVIRONMENT, COLD_NONE, COLD_SESSION, SERVER_TIMING, server_timing
from orchestrator.api.replies import Members
from orchestrator.api.schemas import SetupBody
from orchestrator.auth.keys import Principal
from orchestrator.environments.build import Build
from orchestrator.environments.lock_document import LockDocument
from orchestrator.errors import KodouError
from orchestrator.sessions.manager import Opened, SessionOptions

# How long a setup waits for the interpreters of a server's first start before it is told to come again.
PREPARATION_S = 30.0

Gone = Callable[[], Awaitable[bool]]


class Timing:
    """When a setup got how far."""

    def __init__(self, auth_s: float) -> None:
        self._auth_s = auth_s
        self._began = self._built = perf_counter()

    def built(self) -> None:
        self._built = perf_counter()

    def seconds(self) -> float:
        return perf_counter() - self._began

    def phases(self, turn_came: float | None) -> list[tuple[str, float]]:
        """Each with its seconds. The last, the start of the sandbox, ends now. `turn_came`: see `Build`; None: nothing was
        built. Who joins a build waits for less of it."""
        phases = [("auth", self._auth_s)]
        if turn_came is not None:
            turn_came = max(turn_came, self._began)
            phases += [("queue", turn_came - self._began), ("build", self._built - turn_came)]
        return [*phases, ("start", perf_counter() - self._built)]


class Setup:
    """A build that was asked for, and the session that its end opens."""

    def __init__(
        self,
        parts: Parts,
        principal: Principal,
        options: SessionOptions,
        build: Build,
        lock: LockDocument | None,
        timing: Timing,
    ) -> None:
        self.build = build
        self.owner = principal.owner
        self._parts = parts
        self._principal = principal
        self._options = options
        self._lock = lock
        self._timing = timing
        self._opened: Opened | None = None
        self._receipt: tuple[Header, ...] = ()

    @classmethod
    async def begin(
        cls, parts: Parts, principal: Principal, language: str, body: SetupBody, *, auth_s: float = 0.0
    ) -> "Setup":
        """Start the build, or join it. Raises `KodouError` for what can be told without one."""
        timing = Timing(auth_s)
        options = session_options(body, parts.settings, principal)
        # Of 2,000 packages it takes half a second.
        lock = None if body.lock is None else await asyncio.to_thread(lock_document, body)
        try:
            parts.sessions.check_room(principal.owner)  # before the index or the engine is asked for anything
            await parts.preparation.wait(PREPARATION_S)
            if lock is None:
                build = await parts.environments.setup(
                    language, body.version, body.dependencies, refresh=body.refresh, owner=principal.owner
                )
            else:
                build = await parts.environments.remake(language, lock, owner=principal.owner)
        except KodouError as exc:
            telemetry.SETUPS.labels(exc.code).inc()
            raise
        return cls(parts, principal, options, build, lock, timing)

    async def finish(self, gone: Gone | None = None) -> Members | None:
        """Wait for the build, open the session, and tell both. Cancelled, it leaves no session; the build goes on.

        Args:    gone: whether the client has left. If so no session stays either, and the reply is None.
        Raises:  the build's `KodouError`, or the session's.
        """
        try:
            built = await self.build.result()
            self._timing.built()
            if built.replaced is not None:
                self._parts.sessions.replaced(built.replaced)
            if gone is not None and await gone():
                return None
            self._opened = await self._parts.sessions.open(
                self._principal, built.environment, built.image, self._options
            )
            self._parts.environments.touch(built.environment.id)
        except KodouError as exc:
            telemetry.SETUPS.labels(exc.code).inc()
            raise
        if gone is not None and await gone():
            await self.abandon()
            return None
        telemetry.SETUPS.labels("reused" if built.reused else "built").inc()
        telemetry.SETUP_SECONDS.labels(str(built.reused).lower()).observe(self._timing.seconds())
        cold = COLD_ENVIRONMENT if not built.reused else COLD_NONE if self._opened.warm else COLD_SESSION
        self._receipt = (cold, (SERVER_TIMING, server_timing(self._timing.phases(self.build.turn_came))))
        return replies.setup_members(self._opened, built, cold=cold[1].decode(), lock=self._lock)

    def receipt(self) -> dict[str, str]:
        """Further headers of the reply, once `finish` has ended well."""
        return {name.decode(): value.decode() for name, value in self._receipt}

    async def abandon(self) -> None:
        """Close the session, if one was opened: its id will never reach the client."""
        if self._opened is not None:
            await self._parts.sessions.close(self._opened.sessionid, self._principal)
