"""`kodou driver`: the process that holds the engine, so that the one that serves HTTP need not."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import DataDir, load_settings, open_data_dir

if TYPE_CHECKING:
    from orchestrator.settings import Settings


def driver(
    socket: Annotated[
        Path | None, typer.Option(help="Where to listen, on a Unix socket; KODOU_DRIVER_SOCKET if unset.")
    ] = None,
    data_dir: DataDir = None,
    backend: Annotated[str | None, typer.Option(help="auto, docker or bubblewrap; auto if unset.")] = None,
) -> None:
    """Hold the engine for a `kodou serve --driver`. It gives it no more than a closed set of verbs."""
    import asyncio

    from orchestrator.telemetry import configure_logging

    settings = load_settings(driver_socket=socket, data_dir=data_dir, backend=backend)
    open_data_dir(settings)
    configure_logging(settings)
    asyncio.run(_driven(settings))


async def _driven(settings: "Settings") -> None:
    from orchestrator.driver.server import serve
    from orchestrator.errors import KodouError
    from orchestrator.sandboxes.process import ProcessBackend
    from orchestrator.sandboxes.selection import select_engine

    backend = await select_engine(settings)
    if isinstance(backend, ProcessBackend):
        await backend.aclose()
        msg = "the process backend isolates nothing, so there is nothing to hold apart"
        raise KodouError(msg)
    await serve(settings, backend)
