"""Which backend a server has: the one that a driver holds, or one of its own."""

from orchestrator.driver.client import DriverBackend
from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes.backend import SandboxBackend
from orchestrator.sandboxes.selection import select_engine
from orchestrator.settings import Settings


async def select_backend(settings: Settings) -> SandboxBackend:
    """The driver's if settings name its socket.

    Raises: EngineUnavailable: what is named does not work; says what to do.
    """
    if settings.driver_socket is None:
        return await select_engine(settings)
    backend = await DriverBackend.reached(settings.driver_socket)
    if settings.backend not in ("auto", backend.name):
        msg = f"the driver holds the {backend.name} backend, not {settings.backend}"
        raise EngineUnavailable(msg)
    return backend
