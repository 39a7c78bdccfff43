"""Egress as a backend sees it: a socket in a sandbox's link directory, behind which the egress proxy listens.

The proxy (`orchestrator.egress`) is a process of its own, one for a backend, so that neither hostile requests nor bulk
bytes take time from calls: started with the first sandbox that needs it, without rights, and started anew if it ends.
"""

import asyncio
import socket
from contextlib import suppress

from orchestrator.egress.proxy import BACKLOG
from orchestrator.errors import EngineUnavailable, Forbidden
from orchestrator.sandboxes.egress_process import ProxyProcess
from orchestrator.sandboxes.link import listen
from orchestrator.settings import Settings
from orchestrator.telemetry import log

SOCKET_NAME = "egress"  # beside the link's own
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 5.0  # before the proxy is started anew


class Egress:
    """Made anywhere; used on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listeners: dict[str, socket.socket] = {}  # by sandbox id; kept for when the proxy has to be started anew
        self._proxy: ProxyProcess | None = None
        self._changing = asyncio.Lock()
        self._reviving: asyncio.Task[None] | None = None

    async def open(self, sandbox_id: str, *, owner: int | None) -> None:
        """Let a sandbox out, through its link directory; `owner` as for its `Link`. Again is fine.
        Raises `Forbidden`: the settings do not allow it; `EngineUnavailable`."""
        if not self._settings.allow_egress:
            msg = "this server does not allow network egress"
            raise Forbidden(msg)
        directory = self._settings.run_dir / sandbox_id
        try:
            async with self._changing:
                listener = await asyncio.to_thread(listen, directory, SOCKET_NAME, owner=owner, backlog=BACKLOG)
                former, self._listeners[sandbox_id] = self._listeners.get(sandbox_id), listener
                if former is not None:
                    former.close()
                if self._proxy is None:
                    await self._start()
                else:
                    await self._proxy.open(sandbox_id, listener)
        except OSError as exc:
            await self.close(sandbox_id)
            msg = "a sandbox's way out could not be opened"
            raise EngineUnavailable(msg) from exc

    async def reopen(self, sandbox_id: str, *, owner: int | None) -> None:
        """Let a sandbox out again that an earlier server had let out, if that is still allowed. Raises `EngineUnavailable`."""
        if sandbox_id in self._listeners or not self._settings.allow_egress:
            return
        if await asyncio.to_thread((self._settings.run_dir / sandbox_id / SOCKET_NAME).is_socket):
            await self.open(sandbox_id, owner=owner)

    async def close(self, sandbox_id: str) -> None:
        """Cut all its connections; not being let out is fine."""
        listener = self._listeners.pop(sandbox_id, None)
        if listener is None:
            return
        listener.close()
        async with self._changing:
            if self._proxy is not None:
                with suppress(OSError):  # it has ended, and its connections with it
                    await self._proxy.close(sandbox_id)

    async def aclose(self) -> None:
        """End the proxy. Sandboxes have no way out until the next server lets them."""
        if self._reviving is not None:
            self._reviving.cancel()
            await asyncio.gather(self._reviving, return_exceptions=True)
        async with self._changing:
            proxy, self._proxy = self._proxy, None
            if proxy is not None:
                await proxy.end()
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    async def _start(self) -> None:
        """Start the proxy and hand it all there is to listen at. Raises `OSError`; there is no proxy then."""
        proxy = await ProxyProcess.started(self._settings)
        try:
            for sandbox_id, listener in self._listeners.items():
                await proxy.open(sandbox_id, listener)
        except BaseException:
            await proxy.end()
            raise
        self._proxy = proxy
        proxy.listen(on_end=self._ended)

    def _ended(self) -> None:
        log.warning("egress_proxy_ended", sandboxes=len(self._listeners))
        self._reviving = asyncio.create_task(self._revive(), name="revive the egress proxy")

    async def _revive(self) -> None:
        pause_s = _FIRST_PAUSE_S
        async with self._changing:
            if self._proxy is not None:
                await self._proxy.end()
                self._proxy = None
        while True:
            await asyncio.sleep(pause_s)
            async with self._changing:
                if self._proxy is not None or not self._listeners:
                    return  # started meanwhile for a new sandbox, or needed no more
                with suppress(OSError):
                    await self._start()
                    return
            pause_s = min(pause_s * 2, _LAST_PAUSE_S)
