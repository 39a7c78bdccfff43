"""The way from the sandbox's loopback to a Unix socket."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from builder.forward import forwarding

TIMEOUT_S = 10


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Path]:
    """A Unix socket that sends back in capitals what it gets until the end of it."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=_answer, args=(listener,), daemon=True).start()
        yield path


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            received = b""
            while data := connection.recv(65_536):
                received += data
            connection.sendall(received.upper())


def exchange(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65_536):
            received += part
        return received


def test_bytes_go_both_ways_and_the_end_of_one_direction_is_passed_on(echo: Path) -> None:
    with forwarding(echo) as port:
        assert exchange(port, b"hello") == b"HELLO"
        assert exchange(port, b"x" * 1_000_000) == b"X" * 1_000_000


def test_many_connections_at_once(echo: Path) -> None:
    with forwarding(echo) as port:
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda: answers.append(exchange(port, b"a"))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert answers == [b"A"] * 20


def test_it_listens_on_the_loopback_and_only_while_it_is_wanted(echo: Path) -> None:
    with forwarding(echo) as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


def test_a_target_that_is_not_there_closes_the_connection(tmp_path: Path) -> None:
    with forwarding(tmp_path / "none") as port, socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        assert connection.recv(1) == b""
