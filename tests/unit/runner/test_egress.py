"""The runner's half of egress: variables, and a port that leads to the egress proxy's socket beside the link's own."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from runner import frames

from tests.unit.runner.conftest import PATIENCE_S, Orchestrator


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[None]:
    """Says who it is to whoever comes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "egress"))
        listener.listen()
        answering = threading.Thread(target=_answer, args=(listener,))
        answering.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        answering.join(PATIENCE_S)


def _answer(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.send(b"the proxy")


def port_of(session: Orchestrator) -> int:
    port = urlsplit(session.value("os.environ.get", "HTTP_PROXY")).port
    assert port is not None
    return port


def said_at(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        return connection.recv(100)


def test_the_port_stays_and_leads_to_the_proxy_after_a_restart_too(
    launch: Callable[..., Orchestrator], proxy: None
) -> None:
    session = launch().start(egress=True)
    port = port_of(session)
    assert said_at(port) == b"the proxy"
    session.tell(frames.RESTART)
    session.accept_worker()
    assert port_of(session) == port
    assert said_at(port) == b"the proxy"


def test_clients_find_it_by_their_usual_variables_and_the_sessions_own_count(
    launch: Callable[..., Orchestrator],
) -> None:
    session = launch().start(egress=True, env={"no_proxy": "mine"})
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    proxies = {session.value("os.environ.get", each) for name in names for each in (name, name.lower())}
    assert proxies == {f"http://127.0.0.1:{port_of(session)}"}
    assert session.value("os.environ.get", "NO_PROXY") == "localhost,127.0.0.1"
    assert session.value("os.environ.get", "no_proxy") == "mine"


def test_without_egress_there_is_neither(session: Orchestrator) -> None:
    proxies = session.value("builtins.eval", "[name for name in __import__('os').environ if 'proxy' in name.lower()]")
    assert proxies == []
    children = Path(f"/proc/{session.process.pid}/task/{session.process.pid}/children").read_text().split()
    assert len(children) == 1  # the worker
