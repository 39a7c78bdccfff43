"""One setup, from its body to a session: what the three ways to wait for it (reply, stream, poll) have in common."""

from collections.abc import Awaitable, Callable
from time import perf_counter

from orchestrator import telemetry
from orchestrator.api import replies
from orchestrator.api.options import session_options
from orchestrator.api.parts import Parts
from orchestrator.api.replies import Members
from orchestrator.api.schemas import SetupBody
from orchestrator.auth.keys import Principal
from orchestrator.environments.builds import Build
from orchestrator.errors import KodouError
from orchestrator.sessions.manager import Opened, SessionOptions

# How long a setup waits for the interpreters of a server's first start before it is told to come again.
PREPARATION_S = 30.0

Gone = Callable[[], Awaitable[bool]]


class Setup:
    """A build that was asked for, and the session that its end opens."""

    def __init__(self, parts: Parts, principal: Principal, options: SessionOptions, build: Build) -> None:
        self.build = build
        self.owner = principal.owner
        self._parts = parts
        self._principal = principal
        self._options = options
        self._started = perf_counter()
        self._opened: Opened | None = None

    @classmethod
    async def begin(cls, parts: Parts, principal: Principal, language: str, body: SetupBody) -> "Setup":
        """Start the build, or join it. Raises `KodouError` for what can be told without one."""
        options = session_options(body, parts.settings, principal)
        try:
            parts.sessions.check_room(principal.owner)  # before the index or the engine is asked for anything
            await parts.preparation.wait(PREPARATION_S)
            build = await parts.environments.setup(
                language, body.version, body.dependencies, refresh=body.refresh, owner=principal.owner
            )
        except KodouError as exc:
            telemetry.SETUPS.labels(exc.code).inc()
            raise
        return cls(parts, principal, options, build)

    async def finish(self, gone: Gone | None = None) -> Members | None:
        """Wait for the build, open the session, and tell both. Cancelled, it leaves no session; the build goes on.

        Args:    gone: whether the client has left. If so no session stays either, and the reply is None.
        Raises:  the build's `KodouError`, or the session's.
        """
        try:
            built = await self.build.result()
            if gone is not None and await gone():
                return None
            await self._parts.environments.touch(built.environment.id)
            self._opened = await self._parts.sessions.open(
                self._principal, built.environment, built.image, self._options
            )
        except KodouError as exc:
            telemetry.SETUPS.labels(exc.code).inc()
            raise
        if gone is not None and await gone():
            await self.abandon()
            return None
        telemetry.SETUPS.labels("reused" if built.reused else "built").inc()
        telemetry.SETUP_SECONDS.labels(str(built.reused).lower()).observe(perf_counter() - self._started)
        return replies.setup_members(self._opened, built.environment, reused=built.reused)

    async def abandon(self) -> None:
        """Close the session, if one was opened: its id will never reach the client."""
        if self._opened is not None:
            await self._parts.sessions.close(self._opened.sessionid, self._principal)
