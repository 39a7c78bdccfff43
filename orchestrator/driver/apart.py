"""Whether the process that serves HTTP is kept from the engine: what a driver is for."""

import os

from orchestrator.errors import KodouError
from orchestrator.sandboxes.docker.engine import Engine
from orchestrator.sandboxes.promises import Promise
from orchestrator.settings import Settings

NAME = "engine apart"
_PING_S = 5.0


async def apart(settings: Settings) -> Promise:
    """Looked at from the process that runs this: run it as the user, and where, the server runs."""
    reaches = [reason for reason in (_root(), await _docker(settings)) if reason is not None]
    if settings.driver_socket is None:
        return Promise(NAME, False, "the server holds the engine itself: `kodou driver` can hold it in its place")
    if reaches:
        return Promise(NAME, False, f"there is a driver, but {' and '.join(reaches)}")
    return Promise(NAME, True, f"only the driver at {settings.driver_socket} reaches it")


def _root() -> str | None:
    return "this user is root" if os.geteuid() == 0 else None


async def _docker(settings: Settings) -> str | None:
    engine = Engine(settings)
    try:
        await engine.ping(timeout_s=_PING_S)
    except KodouError:
        return None
    finally:
        await engine.aclose()
    return "this user reaches the Docker engine"
