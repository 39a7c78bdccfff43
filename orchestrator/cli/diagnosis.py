"""What `kodou doctor` looks at: the data directory, the package index, and each backend's promises."""

import asyncio
import os
import ssl
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from orchestrator.cli.data import opened_backend
from orchestrator.cli.options import SettingsRefused, open_data_dir
from orchestrator.driver.apart import apart
from orchestrator.errors import KodouError
from orchestrator.packages.index import Index
from orchestrator.packages.uv import ca_bundle
from orchestrator.sandboxes.backend import SandboxBackend
from orchestrator.sandboxes.bubblewrap.backend import promises as bubblewrap_promises
from orchestrator.sandboxes.docker.host import docker_promises
from orchestrator.settings import Settings

PROMISES = {"docker": docker_promises, "bubblewrap": bubblewrap_promises}  # process promises nothing
INDEX_TIMEOUT_S = 15.0
SECRETS = ("kodou.sqlite", "keys")  # of the data directory: for its owner only


@dataclass(frozen=True)
class Finding:
    """`needed`: without it the selected backend cannot serve."""

    about: str
    name: str
    held: bool
    detail: str
    needed: bool = False


async def findings(settings: Settings) -> AsyncIterator[Finding]:
    """Everything that was found, as it is found: some of it takes a while."""
    usable = _data_dir(settings)
    yield usable
    for finding in _secrets(settings.data_dir):
        yield finding
    yield await asyncio.to_thread(_index, settings)
    if not usable.held:  # every backend keeps files there
        return
    kept = await apart(settings)
    yield Finding("server", kept.name, kept.held, kept.detail)
    # What a driver holds is not told by looking from here: run where it runs, without its socket, this does.
    for name, promises in ({} if settings.driver_socket is not None else PROMISES).items():
        for promise in await promises(settings):
            yield Finding(f"backend {name}", promise.name, promise.held, promise.detail)
    async for finding in _selected(settings):
        yield finding


def _data_dir(settings: Settings) -> Finding:
    try:
        open_data_dir(settings)
    except SettingsRefused as exc:
        return Finding("data directory", "writable", False, str(exc), needed=True)
    return Finding("data directory", "writable", True, str(settings.data_dir), needed=True)


def _secrets(data_dir: Path) -> list[Finding]:
    """Files that nobody but their owner may read."""
    found = []
    for name in SECRETS:
        path = data_dir / name
        if not os.access(data_dir, os.X_OK) or not path.exists():
            continue
        open_to_others = bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
        detail = f"chmod go= {path}" if open_to_others else "only its owner reads it"
        found.append(Finding("data directory", name, not open_to_others, detail, needed=open_to_others))
    return found


def _index(settings: Settings) -> Finding:
    index, bundle = Index.of(settings), ca_bundle(settings)
    try:
        with httpx.Client(
            verify=ssl.create_default_context(cafile=bundle),
            proxy=settings.index_proxy,
            auth=index.credentials,
            trust_env=False,
            timeout=INDEX_TIMEOUT_S,
        ) as client:
            status = client.head(f"{index.url.rstrip('/')}/pip/").status_code
    except (httpx.HTTPError, OSError) as exc:
        detail = f"{index.url} does not answer ({exc}): see KODOU_INDEX_URL, KODOU_INDEX_PROXY and KODOU_CA_BUNDLE"
        return Finding("package index", "reachable", False, detail)
    if status >= 400:
        detail = f"{index.url} answers with status {status}: see KODOU_INDEX_URL"
        return Finding("package index", "reachable", False, detail)
    return Finding("package index", "reachable", True, index.url)


async def _selected(settings: Settings) -> AsyncIterator[Finding]:
    about = f"serving with {settings.backend}"
    try:
        async with opened_backend(settings) as backend:
            yield Finding(about, "backend", True, backend.name, needed=True)
            yield await _interpreters(about, backend)
    except KodouError as exc:
        yield Finding(about, "backend", False, exc.detail, needed=True)


async def _interpreters(about: str, backend: SandboxBackend) -> Finding:
    """On docker this makes the runner images, which takes a few minutes the first time."""
    await backend.images.prepare()
    offered = [interpreter.version for interpreter in await backend.images.interpreters()]
    setting = "KODOU_BASE_IMAGES" if backend.name == "docker" else "KODOU_INTERPRETERS"
    detail = f"Python {', '.join(offered)}" if offered else f"none on offer: see {setting}, and the warnings above"
    return Finding(about, "interpreters", bool(offered), detail, needed=True)
