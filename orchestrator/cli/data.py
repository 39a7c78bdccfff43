"""The data directory as admin commands work on it, whether or not a server runs there."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.cli.options import load_settings, open_data_dir

if TYPE_CHECKING:
    from orchestrator.auth.keys import Keys
    from orchestrator.sandboxes.backend import SandboxBackend
    from orchestrator.settings import Settings
    from orchestrator.store.base import Store

T = TypeVar("T")


def admin(
    data_dir: Path | None, work: Callable[["Settings"], Coroutine[Any, Any, T]], *, backend: str | None = None
) -> T:
    """Run one admin command's work on the data directory. Raises `SettingsRefused`, `KodouError`."""
    import asyncio

    settings = load_settings(data_dir=data_dir, backend=backend)
    open_data_dir(settings)
    quiet(settings)
    return asyncio.run(work(settings))


def quiet(settings: "Settings") -> None:
    """Let only warnings through, and those to standard error: what a command prints is for scripts to read."""
    from orchestrator.telemetry import configure_logging

    configure_logging(settings.model_copy(update={"log_level": "warning", "log_format": "console"}))


@asynccontextmanager
async def opened_store(settings: "Settings") -> AsyncIterator["Store"]:
    import asyncio

    from orchestrator.store.sql import open_store

    store = await asyncio.to_thread(open_store, settings)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def opened_keys(settings: "Settings") -> AsyncIterator["Keys"]:
    from orchestrator.auth.keys import Keys
    from orchestrator.auth.tokens import Tokens

    async with opened_store(settings) as store:
        yield Keys(store, Tokens.load(settings.data_dir), settings.data_dir)


@asynccontextmanager
async def opened_backend(settings: "Settings") -> AsyncIterator["SandboxBackend"]:
    from orchestrator.driver.selection import select_backend

    backend = await select_backend(settings)
    try:
        yield backend
    finally:
        await backend.aclose()
