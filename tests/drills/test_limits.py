"""Faults 17 and 18: a host that gives the server no more descriptors or processes, and a path too long for a socket."""

import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from tests.drills.at_rest import at_rest, back_to
from tests.drills.conftest import drilled
from tests.drills.crowds import connected, request, until
from tests.servers import Server

SETUP = "/environment/python/setup"
CROWD = 60
SPARE = 12  # descriptors that it may still open
SOCKET_PATH_MAX = 107


@contextmanager
def few_descriptors(server: Server) -> Iterator[None]:
    """The server may hold a few more than it has."""
    pid = server.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1 + SPARE, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@contextmanager
def no_new_processes(server: Server) -> Iterator[None]:
    """The server and all that it has started get neither a process nor a thread more."""
    lines = Path(f"/proc/{server.process.pid}/cgroup").read_text().splitlines()
    paths = {controllers: path.lstrip("/") for _, controllers, path in (line.split(":", 2) for line in lines)}
    roots = [Path("/sys/fs/cgroup/pids") / paths.get("pids", ""), Path("/sys/fs/cgroup") / paths.get("", "")]
    group = next(path for path in roots if (path / "pids.max").exists() and "kodou-drill" in str(path))
    (group / "pids.max").write_text((group / "pids.current").read_text())
    try:
        yield
    finally:
        (group / "pids.max").write_text("max")


def test_a_server_without_descriptors_refuses_and_goes_on_once_there_are_some(server: Server) -> None:
    before = at_rest(server)
    live = server.session("bob")
    live.value("math.sqrt", 4)
    client = server.client()
    client.get("/session")  # its connection stands
    with few_descriptors(server):
        with ExitStack() as crowd:
            for _ in range(CROWD):
                crowd.enter_context(connected(server))
            reply = until(lambda: _refused(client.post(SETUP, json={})), "a refusal")
            assert reply.status_code == 503
            assert reply.json()["code"] in ("unavailable", "engine_unavailable", "store_busy")
            assert int(reply.headers["Retry-After"]) > 0
            assert str(server.data_dir) not in reply.text
            # What needs none goes on.
            assert [live.value("operator.add", number, 1) for number in range(20)] == list(range(1, 21))
        assert server.process.poll() is None
        until(lambda: _answers(server, live.client.headers["Authorization"]), "new connections")
    until(lambda: client.post(SETUP, json={}).status_code == 200, "setups")
    live.close()
    for each in client.get("/session").json()["sessions"]:
        server.kodou("sessions", "stop", each["id"])
    back_to(before, server)


def test_a_server_without_processes_refuses_and_goes_on_once_there_are_some(server: Server) -> None:
    before = at_rest(server)
    live = server.session("bob")
    client = server.client()
    client.get("/session")
    with no_new_processes(server):
        replies = [client.post(SETUP, json={}) for _ in range(3)]
        assert {reply.status_code for reply in replies} <= {200, 503}
        assert [live.value("operator.add", number, 1) for number in range(20)] == list(range(1, 21))
    if server.backend == "bubblewrap":  # an engine's are not the server's
        assert {reply.status_code for reply in replies} == {503}
        assert "detail" in replies[0].json()
    assert server.process.poll() is None
    until(lambda: client.post(SETUP, json={}).status_code == 200, "setups")
    live.close()
    for each in client.get("/session").json()["sessions"]:
        server.kodou("sessions", "stop", each["id"])
    back_to(before, server)


def test_no_path_of_the_data_directory_is_too_long(backend: str, open_tmp_path: Path) -> None:
    deep = open_tmp_path.joinpath(*["a-directory-among-many"] * 8)
    deep.mkdir(parents=True, mode=0o755)
    assert len(str(deep)) > SOCKET_PATH_MAX
    with drilled(backend, parent=deep, KODOU_KEEP_SESSIONS="1") as server:
        before = at_rest(server)
        session = server.session(env={"MARK": "deep"})
        assert session.value("os.getenv", "MARK") == "deep"
        assert session.call("time.sleep", 30, timeout=100)["restarted"] is True
        server.kill()
        server.start()  # and the socket is made anew
        assert session.value("os.getenv", "MARK") == "deep"
        session.close()
        back_to(before, server)


def _refused(reply: httpx.Response) -> httpx.Response | None:
    return reply if reply.status_code != 200 else None


def _answers(server: Server, authorization: str) -> bool:
    try:
        with connected(server) as connection:
            connection.settimeout(5)
            connection.sendall(request("GET", "/session", authorization, {}))
            return connection.recv(12).endswith(b"200")
    except OSError:
        time.sleep(0.2)
        return False
