"""`kodou serve`: the server itself."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.data import opened_keys, quiet
from orchestrator.cli.options import DataDir, load_settings, open_data_dir

if TYPE_CHECKING:
    from orchestrator.settings import Settings

FIRST_KEY = "first"


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if unset.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8000 if unset, 0 takes a free one.")] = None,
    data_dir: DataDir = None,
    backend: Annotated[str | None, typer.Option(help="auto, docker, bubblewrap or process; auto if unset.")] = None,
    driver: Annotated[
        Path | None,
        typer.Option(help="Socket of a `kodou driver`, which holds the engine; KODOU_DRIVER_SOCKET if unset."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="API processes; 1 if unset, which serves by itself.")] = None,
) -> None:
    """Run the server. Every setting has a KODOU_… variable; these options come before them."""
    settings = load_settings(
        host=host, port=port, data_dir=data_dir, backend=backend, driver_socket=driver, workers=workers
    )
    open_data_dir(settings)
    if sys.stdin.isatty() and sys.stdout.isatty():
        import asyncio

        quiet(settings)
        asyncio.run(_welcome(settings))
    from orchestrator.server import run

    run(settings)


async def _welcome(settings: "Settings") -> None:
    """On the first start, a key and a command that works as it stands."""
    async with opened_keys(settings) as keys:
        if await keys.list():
            return
        new = await keys.create(FIRST_KEY)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    typer.echo(f"Made a first key, `{FIRST_KEY}`. Once the server is ready, in another terminal:\n")
    typer.echo(f"export KODOU_URL=http://{host}:{settings.port or 'PORT'} KODOU_TOKEN={new.api_id}")
    typer.echo(curl("$KODOU_URL", "$KODOU_TOKEN") + "\n")


def curl(url: str, token: str) -> str:
    """A setup for the shell that works as it stands."""
    return (
        f'curl "{url}/environment/python/setup" -H "Authorization: Bearer {token}" \\\n'
        """  -H "Content-Type: application/json" -d '{"version": "3", "dependencies": ["numpy"]}'"""
    )
