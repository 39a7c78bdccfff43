"""Starts what is measured: a kodou server on a backend, and a FastAPI server that runs the same function in-process."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Start times matter here, and some machines switch the bytecode cache off for everything.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
KODOU = str(Path(sys.executable).parent / "kodou")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[bytes], path: str = "/readyz", timeout_s: float = 300) -> None:
    from benchmarks.wire import Wire

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
def kodou(backend: str, data_dir: Path) -> Iterator[tuple[int, str]]:
    """A server with an empty data directory; its port and an API id."""
    environment = ENVIRONMENT | {
        "KODOU_DATA_DIR": str(data_dir),
        "KODOU_MAX_SESSIONS_PER_OWNER": "500",
        "KODOU_REQUESTS_PER_S": "1000000",  # one key, as fast as it can
        "KODOU_BURST_REQUESTS": "1000000",
        "KODOU_SETUPS_PER_S": "1000000",
        "KODOU_LOG_LEVEL": "warning",
        "KODOU_KEEP_SESSIONS": "false",
    }
    made = subprocess.run(
        [KODOU, "keys", "create", "bench"], env=environment, check=True, capture_output=True, text=True
    )
    port = free_port()
    process = subprocess.Popen([KODOU, "serve", "--backend", backend, "--port", str(port)], env=environment)
    try:
        wait_for(port, process)
        yield port, made.stdout.strip().splitlines()[-1]
    finally:
        process.terminate()
        process.wait(60)
        # Images outlive their data directory, and the next run is to find none.
        subprocess.run([KODOU, "images", "prune", "--backend", backend, "--all", "--yes"], env=environment, check=False)


@contextmanager
def in_process() -> Iterator[int]:
    """The peer: uvicorn and FastAPI with a typed endpoint that sums with numpy. No sandbox, no session."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.peer:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, env=ENVIRONMENT)
    try:
        wait_for(port, process, "/ready")
        yield port
    finally:
        process.terminate()
        process.wait(30)
