"""The way from a sandbox's loopback to the egress proxy's socket, as the process that it is."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import runner

TIMEOUT_S = 20
CODE = "import sys, socket; from runner.forward import forward; forward(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])"


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Path]:
    """A Unix socket that sends back in capitals what it gets until the end of it."""
    path = tmp_path / "egress"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        accepting = threading.Thread(target=_answer, args=(listener,), daemon=True)
        accepting.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join(TIMEOUT_S)


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        received = b""
        while data := connection.recv(65_536):
            received += data
        connection.sendall(received.upper())


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        command = [sys.executable, "-c", CODE, str(listener.fileno()), str(tmp_path / "egress")]
        environment = {**os.environ, "PYTHONPATH": str(Path(runner.__file__).parent.parent)}
        process = subprocess.Popen(command, pass_fds=[listener.fileno()], env=environment)
        try:
            yield listener.getsockname()[1]
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()


def exchange(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65_536):
            received += part
        return received


def test_bytes_go_both_ways_and_the_end_of_one_direction_is_passed_on(echo: Path, port: int) -> None:
    assert exchange(port, b"hello") == b"HELLO"
    assert exchange(port, b"x" * 3_000_000) == b"X" * 3_000_000
    assert exchange(port, b"") == b""


def test_many_connections_at_once_those_that_say_nothing_too(echo: Path, port: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), TIMEOUT_S))
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda: answers.append(exchange(port, b"a" * 200_000))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert answers == [b"A" * 200_000] * 20
    assert exchange(port, b"after") == b"AFTER"


def test_who_resets_a_connection_ends_that_one_only(echo: Path, port: int) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(b"x" * 100_000)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert exchange(port, b"next") == b"NEXT"


def test_where_nobody_listens_the_connection_is_closed(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        assert connection.recv(1) == b""
