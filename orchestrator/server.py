"""The server process: makes the parts, listens, and ends in order."""

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop

from orchestrator import telemetry
from orchestrator.api.connection import BACKLOG, configured, connections, sweep
from orchestrator.app import App, Parts, create_app
from orchestrator.auth.keys import Keys
from orchestrator.auth.limits import Limits
from orchestrator.auth.tokens import Tokens
from orchestrator.driver.selection import select_backend
from orchestrator.environments.builds import Environments
from orchestrator.preparation import Preparation
from orchestrator.sessions.manager import SessionManager
from orchestrator.settings import Settings
from orchestrator.store.sql import open_store
from orchestrator.workers import supervision

SERVER_FILE = "server.json"


def run(settings: Settings) -> None:
    """Serve until a signal. Blocks. Raises `KodouError` for what keeps it from starting, `OSError` for a taken port."""
    telemetry.configure_logging(settings)
    uvloop.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT: then no new connections, running calls to their end, stop. The second is at once."""
    listener = _listener(settings)
    try:
        app = create_app(await _parts(settings))
        # Modules and what they made stay. To look at all of it is most of a full collection, which holds every call up.
        gc.collect()
        gc.freeze()
        with _announced(listener, settings):
            if settings.workers > 1:
                await supervision.serve(app, app.refusal, listener, settings)
            else:
                await _serve_alone(app, listener, settings)
    finally:
        listener.close()


async def _serve_alone(app: App, listener: socket.socket, settings: Settings) -> None:
    server = _Server(configured(app, settings, http=connections(settings, app.refusal), lifespan="on"))
    telemetry.WORKERS.set(1)
    async with _swept(server, settings):
        await server.serve(sockets=[listener])


async def _parts(settings: Settings) -> Parts:
    settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    backend = await select_backend(settings)
    store = await asyncio.to_thread(open_store, settings)
    tokens = await asyncio.to_thread(Tokens.load, settings.data_dir)
    sessions = SessionManager(settings, store, backend, tokens)
    return Parts(
        settings=settings,
        store=store,
        backend=backend,
        preparation=Preparation(settings, backend.images),
        environments=Environments(settings, store, backend.images, backend=backend.name, held=sessions.warm_image),
        sessions=sessions,
        keys=Keys(store, tokens, settings.data_dir),
        tokens=tokens,
        limits=Limits(settings),
    )


class _Server(uvicorn.Server):
    """Ends with exit code 0, and does not wait after a second signal."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # Sandboxes go on running and the next start takes them up: nothing is lost by leaving now.
            os._exit(128 + sig)
        self.should_exit = True
        telemetry.log.info("stopping", signal=signal.Signals(sig).name)


def _listener(settings: Settings) -> socket.socket:
    """Bound first: a taken port is told before anything else is touched."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)


@asynccontextmanager
async def _swept(server: uvicorn.Server, settings: Settings) -> AsyncIterator[None]:
    task = asyncio.create_task(sweep(server, lambda _: settings.max_unread_bytes), name="sweep connections")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@contextmanager
def _announced(listener: socket.socket, settings: Settings) -> Iterator[None]:
    """Tell people (standard error) and commands (`server.json`) where this server listens."""
    port = listener.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    path = settings.data_dir / SERVER_FILE
    _write_private(path, json.dumps({"pid": os.getpid(), "port": port, "url": url}))
    print(f"kodou listens on {url} (API: {url}/docs)", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        _remove_own(path)


def _write_private(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text + "\n", encoding="utf-8")
    draft.replace(path)


def _remove_own(path: Path) -> None:
    with suppress(OSError, ValueError):
        # A server started meanwhile on the same directory has written its own.
        if json.loads(path.read_text(encoding="utf-8"))["pid"] == os.getpid():
            path.unlink()
