"""Starts servers that are measured: kodou on a backend, and FastAPI with the same function in-process."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.wire import Wire

# Start times matter here, and some machines switch the bytecode cache off for everything.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
KODOU = str(Path(sys.executable).parent / "kodou")
PEERS = Path(__file__).parent / "peers"


class Server(NamedTuple):
    """A server that answers. `token`: an API id."""

    port: int
    token: str
    pid: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes], path: str = "/readyz", timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            msg = f"the server ended with {process.returncode}"
            raise RuntimeError(msg)
        try:
            wire = Wire(port)
            status, _ = wire.send(wire.request("GET", path))
            wire.close()
            if status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    msg = f"nothing answers on port {port}"
    raise TimeoutError(msg)


@contextmanager
def kodou(
    backend: str, data_dir: Path, *, settings: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
) -> Iterator[Server]:
    """A server with an empty data directory. `settings`: variables on top; `arguments`: of `kodou serve`."""
    environment = ENVIRONMENT | {
        "KODOU_DATA_DIR": str(data_dir),
        "KODOU_MAX_SESSIONS_PER_OWNER": "500",
        "KODOU_REQUESTS_PER_S": "1000000",  # one key, as fast as it can
        "KODOU_BURST_REQUESTS": "1000000",
        "KODOU_SETUPS_PER_S": "1000000",
        "KODOU_LOG_LEVEL": "warning",
        "KODOU_KEEP_SESSIONS": "false",
        **(settings or {}),
    }
    made = subprocess.run(
        [KODOU, "keys", "create", "bench"], env=environment, check=True, capture_output=True, text=True
    )
    port = free_port()
    command = [KODOU, "serve", "--backend", backend, "--port", str(port), *arguments]
    log = data_dir / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        try:
            wait_for(port, process)
        except (RuntimeError, TimeoutError) as exc:
            msg = f"{exc}; the end of its log: {log.read_text(errors='replace')[-600:]}"
            raise RuntimeError(msg) from exc
        yield Server(port, made.stdout.strip().splitlines()[-1], process.pid)
    finally:
        process.terminate()
        process.wait(60)
        # Images outlive their data directory, and the next run is to find none.
        prune = [KODOU, "images", "prune", "--backend", backend, "--all", "--yes"]
        subprocess.run(prune, env=environment, check=False, stdout=subprocess.DEVNULL)


@contextmanager
def in_process(python: Path) -> Iterator[Server]:
    """The peer: uvicorn (uvloop, httptools) and FastAPI with typed endpoints that sum with numpy. No sandbox, no session."""
    port = free_port()
    command = [str(python), "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(PEERS), "--port", str(port)]
    options = ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning", "--no-access-log"]
    process = subprocess.Popen([*command, *options], env=ENVIRONMENT)
    try:
        wait_for(port, process, "/ready")
        yield Server(port, "", process.pid)
    finally:
        process.terminate()
        process.wait(30)
