"""Which backend runs: the one that settings name, or the best that this machine can hold."""

import asyncio

from orchestrator.errors import EngineUnavailable, KodouError
from orchestrator.sandboxes.backend import SandboxBackend
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend
from orchestrator.sandboxes.bubblewrap.backend import check as check_bubblewrap
from orchestrator.sandboxes.docker.backend import DockerBackend
from orchestrator.sandboxes.process import ProcessBackend
from orchestrator.settings import Settings

PING_S = 5.0


async def select_backend(settings: Settings) -> SandboxBackend:
    """The backend of this server. `auto`: docker if an engine answers, else bubblewrap if it works here.

    Raises: EngineUnavailable: the one that is named does not work, or with `auto` none; says what to do.
    """
    match settings.backend:
        case "docker":
            return await _docker(settings)
        case "bubblewrap":
            return await _bubblewrap(settings)
        case "process":
            return await asyncio.to_thread(ProcessBackend, settings)
        case "auto":
            return await _best(settings)


async def _best(settings: Settings) -> SandboxBackend:
    reasons = []
    for choose in (_docker, _bubblewrap):
        try:
            return await choose(settings)
        except KodouError as exc:
            reasons.append(exc.detail)
    msg = f"nothing on this machine can hold a sandbox: {'; '.join(reasons)} (`kodou doctor` says more)"
    raise EngineUnavailable(msg)


async def _docker(settings: Settings) -> SandboxBackend:
    backend = await asyncio.to_thread(DockerBackend, settings)
    try:
        await backend.ping(timeout_s=PING_S)
    except KodouError as exc:
        await backend.aclose()
        msg = "no Docker engine answers: start one, and let this user reach it (KODOU_DOCKER_URL)"
        raise EngineUnavailable(msg) from exc
    return backend


async def _bubblewrap(settings: Settings) -> SandboxBackend:
    problem = await check_bubblewrap(settings)
    if problem is not None:
        raise EngineUnavailable(problem)
    return await asyncio.to_thread(BubblewrapBackend, settings)
