"""One server for all tests of a backend, and sessions on it."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.servers import BACKENDS, Server, Session, require, running


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[Callable[[str], Server]]:
    """The server of each backend: they stay until the end, since tests of one backend and of another come by turns."""
    with ExitStack() as stack:
        yield functools.cache(lambda backend: stack.enter_context(running(backend, KODOU_BURST_FAILURES="1000")))


@pytest.fixture(scope="session", params=BACKENDS)
def server(request: pytest.FixtureRequest, shared_servers: Callable[[str], Server]) -> Server:
    """The server that most tests share; they have owners, so sessions, of their own."""
    require(request.param)
    return shared_servers(request.param)


@pytest.fixture(scope="session")
def session(server: Server) -> Iterator[Session]:
    """A session on the bare interpreter that tests share which leave it as it was."""
    shared = server.session("shared", env={"MARK": "shared"})
    yield shared
    shared.close()


@pytest.fixture
def own_session(server: Server) -> Iterator[Session]:
    """A session that its test may do anything to."""
    own = server.session("own")
    yield own
    own.close()


@pytest.fixture
def witness(server: Server) -> Iterator[Session]:
    """Another owner's session: after the test its interpreter must still be the one it was before."""
    session = server.session("witness")
    mark = 4321
    session.value("sys.setrecursionlimit", mark)
    pid = session.value("os.getpid")
    yield session
    assert session.value("sys.getrecursionlimit") == mark
    assert session.value("os.getpid") == pid
    session.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """The end of the server's log goes with each failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    found = getattr(item, "funcargs", {}).get("server")
    if report.failed and isinstance(found, Server) and found.log.exists():
        report.sections.append(("server log", found.log.read_text()[-6000:]))
