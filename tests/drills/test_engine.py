"""Fault 4: the engine is gone, hangs, resets, fails, answers rubbish, or does what it is asked and nobody hears of it.

Setups are refused in time and in words, sessions that live go on, and all mends itself when the engine is back.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.drills.at_rest import at_rest, back_to
from tests.drills.conftest import drilled
from tests.drills.crowds import until
from tests.drills.engine_proxy import EngineProxy, Fault, engine_proxy
from tests.drills.faults import SOON_S, sandboxes_of
from tests.servers import KODOU, Server, Session, require

pytestmark = pytest.mark.docker

MARK = 4321
ANSWER_S = 8  # how long the server waits for an answer of the engine: longer than a start takes where it is not busy
BOUND_S = 120.0  # a setup asks several times
SWEPT_S = 200.0  # what nobody knows of is looked for once a minute

FAULTS = [Fault.GONE, Fault.HANG, Fault.RESET, Fault.ERROR, Fault.GARBAGE, Fault.TRUNCATED, Fault.LOST]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProxy]:
    require("docker")
    with engine_proxy(tmp_path_factory.mktemp("engine") / "docker.sock") as found:
        yield found


@pytest.fixture(scope="module")
def server(proxy: EngineProxy) -> Iterator[Server]:
    settings = {"KODOU_DOCKER_URL": proxy.url, "KODOU_DOCKER_TIMEOUT_S": str(ANSWER_S), "KODOU_REAP_INTERVAL_S": "1"}
    with drilled("docker", **settings) as found:
        opened(found, "warm").close()
        before = at_rest(found)
        yield found
        # Whatever the engine did and could not tell: nothing of it stays.
        back_to(before, found, within_s=SWEPT_S)


@pytest.fixture
def live(server: Server) -> Iterator[Session]:
    """A session from before the fault, with state."""
    session = opened(server, "live")
    session.value("sys.setrecursionlimit", MARK)
    yield session
    session.close()


def opened(server: Server, owner: str = "ada", **wanted: object) -> Session:
    """A session, for a client that comes again as it is told to: a busy machine's engine, too, may not answer in time."""
    client = server.client(owner)

    def answered() -> httpx.Response | None:
        reply = client.post("/environment/python/setup", json=wanted)
        assert reply.status_code == 200 or reply.json()["code"] == "engine_unavailable", reply.text
        return reply if reply.status_code == 200 else None

    setup = until(answered, "a session").json()
    return Session(setup["sessionid"], client, setup)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.value)
def test_without_an_engine_setups_are_refused_sessions_go_on_and_all_mends_itself(
    server: Server, proxy: EngineProxy, live: Session, fault: Fault
) -> None:
    anybody, closing = server.bearing(), opened(server, "closing")
    with proxy.fault(fault):
        began = time.monotonic()
        refused = server.client().post("/environment/python/setup", json={})
        assert time.monotonic() - began < BOUND_S
        assert (refused.status_code, refused.json()["code"]) == (503, "engine_unavailable"), refused.text
        assert int(refused.headers["retry-after"]) > 0
        until(lambda: anybody.get("/readyz").status_code == 503, "/readyz to say so", within_s=SOON_S)
        assert anybody.get("/readyz").json()["checks"]["engine"] != "ok"
        assert anybody.get("/healthz").status_code == 200
        assert live.value("sys.getrecursionlimit") == MARK
        closed = closing.client.request("DELETE", "/session", json={"sessionid": closing.id})
        assert closed.status_code in (200, 503), closed.text
        assert closing.post("math.sqrt", 4).status_code == 404  # whatever becomes of its sandbox
    until(lambda: anybody.get("/readyz").status_code == 200, "/readyz to be ready again", within_s=SOON_S)
    fresh = opened(server)
    assert fresh.value("math.sqrt", 4) == 2.0
    assert live.value("sys.getrecursionlimit") == MARK
    assert len(sandboxes_of(server, fresh)) == len(sandboxes_of(server, live)) == 1
    fresh.close()
    until(lambda: not sandboxes_of(server, closing), "the closed session's sandbox to go", within_s=SOON_S)


def test_with_a_slow_engine_setups_take_longer_and_calls_do_not_notice(
    server: Server, proxy: EngineProxy, live: Session
) -> None:
    with proxy.fault(Fault.SLOW):
        session = opened(server)
        assert session.value("math.sqrt", 4) == 2.0
        assert live.value("sys.getrecursionlimit") == MARK
        session.close()


def test_a_build_that_loses_its_engine_is_refused_and_the_next_one_works(server: Server, proxy: EngineProxy) -> None:
    offered = server.client().get("/environment/python").json()["versions"]
    wanted = {"version": offered[-1]}
    before = at_rest(server)
    with proxy.fault(Fault.TRUNCATED):
        refused = server.client().post("/environment/python/setup", json=wanted)
        assert (refused.status_code, refused.json()["code"]) == (503, "engine_unavailable"), refused.text
    session = opened(server, **wanted)
    assert session.value("math.sqrt", 4) == 2.0
    session.close()
    back_to(before, server)


def test_a_server_does_not_start_without_its_engine_and_says_why(tmp_path: Path) -> None:
    require("docker")
    command = [KODOU, "serve", "--backend", "docker", "--port", "0", "--data-dir", tmp_path / "data"]
    with engine_proxy(tmp_path / "docker.sock") as proxy, proxy.fault(Fault.RESET):
        environment = {**os.environ, "KODOU_DOCKER_URL": proxy.url}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BOUND_S)
    assert done.returncode != 0
    assert "engine" in done.stderr
    assert "Traceback" not in done.stderr
