"""Sessions for the length of one composition: sandboxes beside the caller's own, of the same kind."""

import asyncio
from contextlib import ExitStack

from orchestrator.auth.keys import Principal
from orchestrator.auth.limits import Gate
from orchestrator.errors import KodouError, SandboxLost
from orchestrator.records import Environment, Session
from orchestrator.sandboxes.backend import Image, ImageStore
from orchestrator.sessions.background import Background
from orchestrator.sessions.manager import SessionManager, SessionOptions
from orchestrator.store.base import Store
from orchestrator.telemetry import log

# Idle for as long, one is reaped: only a crash of the server leaves any.
_TTL_S = 60


class ExtraSessions:
    """Those of one composition. `close_all` ends them in every case.

    Args:    setups: each that is opened counts as a setup. background: where they are closed, which nobody waits for.
    """

    def __init__(
        self,
        sessions: SessionManager,
        store: Store,
        images: ImageStore,
        principal: Principal,
        *,
        setups: Gate,
        background: Background,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._images = images
        self._principal = principal
        self._setups = setups
        self._background = background
        self._open: set[str] = set()

    async def open(self, like: Session, count: int) -> list[str]:
        """The ids of `count` sessions of the same environment, resources, variables and network.
        Raises what `SessionManager.open` and `Gate.enter` do; none is left then."""
        environment = await self._store.get(Environment, like.environment_id)
        image = await self._images.find(like.environment_id)
        if environment is None or image is None:
            msg = "the environment of the session was removed: no further sandboxes can be made of it"
            raise SandboxLost(msg)
        options = SessionOptions(like.resources, like.network, dict(like.env), min(like.ttl_s, _TTL_S))
        with ExitStack() as places:
            for _ in range(count):
                places.enter_context(self._setups.place(self._principal.owner))
            return await self._opened(environment, image, options, count)

    async def _opened(self, environment: Environment, image: Image, options: SessionOptions, count: int) -> list[str]:
        async def one() -> str:
            opened = await self._sessions.open(self._principal, environment, image, options)
            self._open.add(opened.sessionid)
            return opened.sessionid

        tasks = [asyncio.create_task(one()) for _ in range(count)]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def close(self, sessionid: str) -> None:
        """Begin to end one of them; another's id, or again: nothing."""
        if sessionid in self._open:
            self._open.remove(sessionid)
            self._background.spawn(self._close(sessionid))

    def close_all(self) -> None:
        """Begin to end those that are left."""
        for sessionid in tuple(self._open):
            self.close(sessionid)

    async def _close(self, sessionid: str) -> None:
        try:
            await self._sessions.close(sessionid, self._principal)
        except KodouError as error:  # it takes no more calls, and the reaper goes on
            log.warning("a session of a composition was not closed at once", error=error.detail)
