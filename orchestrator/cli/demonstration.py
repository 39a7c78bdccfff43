"""What `kodou demo` does: a server of its own, one setup and one call."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import httpx
import typer
from kodou import Client, step

from orchestrator.cli.data import opened_backend, opened_keys, quiet
from orchestrator.cli.options import load_settings, open_data_dir
from orchestrator.cli.remote import set_up
from orchestrator.cli.terminal import clean
from orchestrator.errors import KodouError
from orchestrator.server import SERVER_FILE
from orchestrator.settings import Settings

KEY_LASTS = timedelta(hours=1)
START_S = 600.0  # docker makes its runner images at the first start
STOP_S = 40.0  # the server gives running calls 30 s
POLL_S = 0.1
POLL_TIMEOUT_S = 5.0
LOG_LINES = 10  # of a server that did not start


def demonstrate(data_dir: Path | None, backend: str | None) -> object:
    """The value of numpy.array([2, 4, 6]).sum(). Nothing is left running; a data directory of its own is removed.
    Raises `SettingsRefused`, `KodouError`, and the client's errors."""
    if data_dir is not None:
        return _run(asyncio.run(_chosen(data_dir, backend)))
    with _temporary() as directory:
        return _run(asyncio.run(_chosen(directory, backend, keep_sessions=False)))


async def _chosen(directory: Path, backend: str | None, **more: object) -> Settings:
    """Settings of the server: on the backend that needs least, unless one is asked for."""
    settings = load_settings(host="127.0.0.1", port=0, data_dir=directory, backend=backend or "bubblewrap", **more)
    open_data_dir(settings)
    quiet(settings)
    _refuse_beside_another(settings.data_dir)
    if backend is not None:
        return settings
    try:
        async with opened_backend(settings):
            return settings
    except KodouError as exc:
        _say(f"bubblewrap cannot serve here ({clean(exc.detail)}): taking what can")
        return settings.model_copy(update={"backend": "auto"})


def _refuse_beside_another(data_dir: Path) -> None:
    """Two servers on one data directory would take up each other's sessions."""
    with suppress(FileNotFoundError, ProcessLookupError):
        told = json.loads((data_dir / SERVER_FILE).read_text())
        with suppress(PermissionError):  # it lives, and is another user's
            os.kill(told["pid"], 0)
        msg = f"a server runs on {data_dir} already ({told['url']}): choose another directory with --data-dir"
        raise KodouError(msg)


def _run(settings: Settings) -> object:
    token = asyncio.run(_key(settings))
    _say(f"starting a server ({settings.backend}, data in {settings.data_dir})")
    with _server(settings) as url, Client(url, token) as client:
        _say(f"it listens on {url}; setting up numpy")
        with set_up(client, ["numpy"], None, {}) as session:
            if session.environment is not None:
                _say(f"Python {session.environment.version}, numpy {session.environment.packages.get('numpy')}")
            _say("calling numpy.array([2, 4, 6]).sum()")
            return session.call(["numpy", step("array", [2, 4, 6]), "sum"])


async def _key(settings: Settings) -> str:
    async with opened_keys(settings) as keys:
        return (await keys.create("demo", expires_in=KEY_LASTS)).api_id


@contextmanager
def _server(settings: Settings) -> Iterator[str]:
    """The URL of a server in a process of its own, ready to be asked; stopped at the end, whatever happened."""
    options = ("host", "port", "data_dir", "backend", "keep_sessions")
    environment = os.environ | {f"KODOU_{name.upper()}": str(getattr(settings, name)) for name in options}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", "serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us alone; we stop it in order
        )
        try:
            url = _ready(process, settings.data_dir)
            if url is None:
                log.seek(0)
                tail = log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
                typer.echo(clean("\n".join(tail)), err=True)
                msg = "the server did not start: see its last lines above; `kodou doctor` tells what is missing"
                raise KodouError(msg)
            yield url
        finally:
            _stop(process)


def _ready(process: subprocess.Popen[bytes], data_dir: Path) -> str | None:
    """Wait for the server and return its URL; None: it ended, or took too long."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        url = _announced(process.pid, data_dir)
        with suppress(httpx.TransportError):
            if url is not None and httpx.get(f"{url}/readyz", timeout=POLL_TIMEOUT_S, trust_env=False).is_success:
                return url
        time.sleep(POLL_S)
    return None


def _announced(pid: int, data_dir: Path) -> str | None:
    """Where the server of that process listens, once it says so."""
    try:
        told = json.loads((data_dir / SERVER_FILE).read_text())
    except FileNotFoundError:
        return None
    return str(told["url"]) if told["pid"] == pid else None


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _temporary() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="kodou-demo-"))
    path.chmod(0o711)  # sandboxes run under other user ids
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _say(text: str) -> None:
    typer.echo(text, err=True)
