"""`kodou demo` and `kodou serve` from the shell: servers that are started there."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.e2e.shell import TIMEOUT_S, Shell, plain_environment
from tests.servers import KODOU, require, running


@pytest.mark.index
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
        pytest.param("docker", marks=pytest.mark.docker),
    ],
)
def test_demo_prints_twelve_and_leaves_nothing(backend: str, open_tmp_path: Path) -> None:
    require(backend)
    done = Shell({**plain_environment(), "TMPDIR": str(open_tmp_path)}).run("demo", "--backend", backend)
    assert (done.returncode, done.stdout) == (0, "12\n"), done.stderr
    assert "curl" in done.stderr
    assert list(open_tmp_path.iterdir()) == []
    url = re.search(r"http://127\.0\.0\.1:[0-9]+", done.stderr)
    assert url is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url[0]}/healthz")


@pytest.mark.index
@pytest.mark.bubblewrap
def test_demo_stops_its_server_when_it_is_ended(open_tmp_path: Path) -> None:
    require("bubblewrap")
    environment = {**plain_environment(), "TMPDIR": str(open_tmp_path)}
    demo = subprocess.Popen(
        [KODOU, "demo", "--backend", "bubblewrap"], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert demo.stderr is not None
    url = next(found[0] for line in demo.stderr if (found := re.search(r"http://127\.0\.0\.1:[0-9]+", line)))
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 128 + signal.SIGTERM
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
    assert list(open_tmp_path.iterdir()) == []


def test_demo_does_not_run_beside_a_server() -> None:
    with running("process") as server:
        done = Shell(plain_environment()).run("demo", "--backend", "process", "--data-dir", str(server.data_dir))
    assert done.returncode == 1
    assert f"a server runs on {server.data_dir} already ({server.url})" in done.stderr


def test_serve_on_a_taken_port_fails_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        shell = Shell({**plain_environment(), "KODOU_DATA_DIR": str(tmp_path)})
        done = shell.run("serve", "--port", port, "--backend", "process")
    assert done.returncode == 1
    assert re.fullmatch(r"kodou: [^\n]*in use[^\n]*\n", done.stderr)


def test_the_first_start_on_a_terminal_shows_a_command_that_works(open_tmp_path: Path) -> None:
    with on_terminal(open_tmp_path) as (url, shown):
        token = re.search(r"KODOU_TOKEN=(\S+)", shown)
        assert token is not None
        command = re.search(r'curl "\$KODOU_URL.*', shown, re.DOTALL)
        assert command is not None
        command = command[0].split("\r\n\r\n")[0].replace("\r\n", "\n").replace('["numpy"]', "[]")
        environment = {**os.environ, "KODOU_URL": url, "KODOU_TOKEN": token[1]}
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert json.loads(done.stdout)["error"] is False, done.stdout + done.stderr
    with on_terminal(open_tmp_path) as (_, shown):
        assert "KODOU_TOKEN" not in shown


@contextmanager
def on_terminal(data_dir: Path) -> Iterator[tuple[str, str]]:
    """A server started on a terminal: its URL, and what it has shown until it listened."""
    ours, its = pty.openpty()
    server = subprocess.Popen(
        [KODOU, "serve", "--backend", "process", "--port", "0"],
        env={**plain_environment(), "KODOU_DATA_DIR": str(data_dir), "KODOU_KEEP_SESSIONS": "0"},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    try:
        shown = _read_until(ours, re.compile(r"kodou listens on (\S+)"))
        found = re.search(r"kodou listens on (\S+)", shown)
        assert found is not None, shown
        yield found[1], shown
    finally:
        server.send_signal(signal.SIGTERM)
        _drain(ours, server)
        os.close(ours)


def _read_until(terminal: int, wanted: re.Pattern[str]) -> str:
    shown, until = "", time.monotonic() + TIMEOUT_S
    while not wanted.search(shown) and time.monotonic() < until:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                shown += os.read(terminal, 65_536).decode(errors="replace")
            except OSError:  # its process has ended
                break
    return shown


def _drain(terminal: int, server: "subprocess.Popen[bytes]") -> None:
    """A terminal that nobody reads would block the server's last words."""
    while server.poll() is None:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                os.read(terminal, 65_536)
            except OSError:
                server.wait(TIMEOUT_S)
