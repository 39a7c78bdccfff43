"""Which backend a process holds: the one that settings name, or the best that this machine can hold."""

import asyncio

from orchestrator.errors import EngineUnavailable, KodouError
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend
from orchestrator.sandboxes.bubblewrap.backend import check as check_bubblewrap
from orchestrator.sandboxes.bubblewrap.backend import promises as bubblewrap_promises
from orchestrator.sandboxes.docker.backend import DockerBackend
from orchestrator.sandboxes.docker.host import docker_promises, require_runtime
from orchestrator.sandboxes.process import ProcessBackend
from orchestrator.sandboxes.promises import require, require_sharing
from orchestrator.settings import Settings

Engine = DockerBackend | BubblewrapBackend | ProcessBackend

PING_S = 20.0


async def select_engine(settings: Settings) -> Engine:
    """`auto`: docker if an engine answers, else bubblewrap if it works here.

    Raises: EngineUnavailable: the one that is named does not work or cannot hold what `required_promises` names, or with
            `auto` none; says what to do.
    """
    match settings.backend:
        case "docker":
            return await _docker(settings)
        case "bubblewrap":
            return await _bubblewrap(settings)
        case "process":
            require([], settings.required_promises)
            return await asyncio.to_thread(ProcessBackend, settings)
        case "auto":
            return await _best(settings)


async def _best(settings: Settings) -> Engine:
    if settings.docker_runtime is not None:  # a kernel of its own was asked for, which no other backend gives
        return await _docker(settings)
    reasons = []
    for choose in (_docker, _bubblewrap):
        try:
            return await choose(settings)
        except KodouError as exc:
            reasons.append(exc.detail)
    msg = f"nothing on this machine can hold a sandbox: {'; '.join(reasons)} (`kodou doctor` says more)"
    raise EngineUnavailable(msg)


async def _docker(settings: Settings) -> Engine:
    backend = await asyncio.to_thread(DockerBackend, settings)
    try:
        await backend.ping(timeout_s=PING_S)
    except KodouError as exc:
        await backend.aclose()
        msg = "no Docker engine answers: start one, and let this user reach it (KODOU_DOCKER_URL)"
        raise EngineUnavailable(msg) from exc
    try:
        promises = await docker_promises(settings)
        require_runtime(promises)
        require_sharing(promises)
        require(promises, settings.required_promises)
    except KodouError:
        await backend.aclose()
        raise
    return backend


async def _bubblewrap(settings: Settings) -> Engine:
    problem = await check_bubblewrap(settings)
    if problem is not None:
        raise EngineUnavailable(problem)
    promises = await bubblewrap_promises(settings)
    require_sharing(promises)
    require(promises, settings.required_promises)
    return await asyncio.to_thread(BubblewrapBackend, settings)
