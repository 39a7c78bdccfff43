"""Interpreters are made ready behind a server that already listens: the first time takes minutes on docker."""

import asyncio
from contextlib import suppress
from typing import Protocol

from orchestrator import telemetry
from orchestrator.environments.versions import match
from orchestrator.errors import EngineUnavailable, KodouError
from orchestrator.sandboxes.backend import Interpreter
from orchestrator.settings import Settings

_AGAIN_S = 10.0
_LOOK_S = 0.1


class Prepared(Protocol):
    """What is prepared: an `ImageStore`, or what stands before one."""

    async def prepare(self) -> None: ...

    async def interpreters(self) -> list[Interpreter]: ...


class Preparation:
    """Runs `images.prepare`, again after a failure, until something is on offer."""

    def __init__(self, settings: Settings, images: Prepared) -> None:
        self._settings = settings
        self._images = images
        self._task: asyncio.Task[None] | None = None
        self._done = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._prepare(), name="prepare interpreters")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def default(self) -> Interpreter | None:
        """What a setup that names no version gets. None: it is still being prepared."""
        offered = await self._images.interpreters()
        if not offered:
            return None
        wanted = self._settings.default_version
        chosen = match(None, offered, wanted)
        # While others are still on their way, one that is not the wanted version is not the answer yet.
        arrived = self._done or (wanted is not None and f"{chosen.version}.".startswith(f"{wanted}."))
        return chosen if arrived else None

    async def wait(self, timeout_s: float) -> None:
        """Return once the default interpreter is there. Raises: EngineUnavailable: it was not, in that time."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if await self.default() is not None:
                        return
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError as exc:
            msg = "the interpreters are being prepared; the first start takes a few minutes"
            raise EngineUnavailable(msg, after_s=_AGAIN_S) from exc

    async def _prepare(self) -> None:
        while True:
            try:
                await self._images.prepare()
            except KodouError as exc:
                telemetry.log.warning("interpreters not prepared", code=exc.code, detail=exc.detail)
            if await self._offered():
                self._done = True
                return
            await asyncio.sleep(_AGAIN_S)

    async def _offered(self) -> bool:
        with suppress(KodouError):
            return bool(await self._images.interpreters())
        return False
