"""Faults 1 and 2: the server is killed in the middle of a call, and of builds at random moments."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx

from tests.drills.at_rest import age_groups, at_rest, back_to
from tests.drills.conftest import drilled
from tests.drills.faults import SOON_S, calling, sandboxes_of
from tests.made_index import made_index
from tests.made_packages import sdist, wheel
from tests.servers import Server

MARK = 4321
# `scripts/drills/crashes` kills more often, and each time elsewhere.
SEED = int(os.environ.get("KODOU_DRILL_SEED", "1"))
ROUNDS = int(os.environ.get("KODOU_DRILL_ROUNDS", "2"))
FROM_SOURCE_EVERY = 3


def test_a_server_killed_in_mid_call_takes_its_sessions_up_again_and_doubles_none(backend: str) -> None:
    with drilled(backend, KODOU_KEEP_SESSIONS="1") as server:
        before = at_rest(server)
        busy, other = server.session("busy"), server.session("other")
        other.value("sys.setrecursionlimit", MARK)
        worker = other.value("os.getpid")
        with calling(busy) as reply:
            server.kill()
            assert isinstance(reply.exception(SOON_S), httpx.TransportError)
        server.start()
        assert busy.value("math.sqrt", 4, timeout=SOON_S * 1000) == 2.0
        assert (other.value("sys.getrecursionlimit"), other.value("os.getpid")) == (MARK, worker)
        for session in (busy, other):
            assert len(sandboxes_of(server, session)) == 1
            session.close()
        back_to(before, server)


def test_a_server_killed_in_mid_setup_leaves_no_sandbox_that_no_session_has(backend: str) -> None:
    with drilled(backend, KODOU_KEEP_SESSIONS="1") as server:
        server.session().close()
        before = at_rest(server)
        moments = random.Random(SEED)
        for _ in range(ROUNDS):
            _killed_during(server, {}, after_s=moments.uniform(0.0, 0.4))
            back_to(before, server)


def test_a_server_killed_in_mid_build_at_any_moment_leaves_no_half_of_an_image(backend: str, tmp_path: Path) -> None:
    with made_index(tmp_path, wheel) as index, drilled(backend, KODOU_INDEX_URL=index.url) as server:
        before = at_rest(server)
        began = time.monotonic()
        server.session(dependencies=["tiny"]).close()
        build_s = time.monotonic() - began
        moments = random.Random(SEED)
        for number in range(ROUNDS):
            name = f"drill{number}"
            if number % FROM_SOURCE_EVERY == 1:
                index.add(partial(sdist, name=name, at_build='module = "def main(): return 5"'))
            else:
                index.add(partial(wheel, name=name))
            wanted = {"dependencies": [name]}
            _killed_during(server, wanted, after_s=moments.uniform(0.0, build_s))
            # What is there of it by now, is whole or is not used.
            session = server.session(**wanted)
            assert session.value(f"{name}.main") == 5
            session.close()
            back_to(before, server)


def _killed_during(server: Server, wanted: dict[str, object], *, after_s: float) -> None:
    """Kill the server so long after it was asked for a setup, and start it again; the session, if any, is closed."""
    client = server.client()
    with ThreadPoolExecutor(1) as thread:
        reply = thread.submit(client.post, "/environment/python/setup", json=wanted)
        time.sleep(after_s)
        server.kill()
        failed = reply.exception(SOON_S)
    if failed is not None and not isinstance(failed, httpx.TransportError):
        raise failed
    server.start()
    if failed is None:
        assert reply.result().status_code == 200, reply.result().text
        closed = client.request("DELETE", "/session", json={"sessionid": reply.result().json()["sessionid"]})
        assert closed.status_code == 200, closed.text
    else:
        # One that became ready, and whose reply was lost: its owner finds it nowhere but in the list.
        for session in client.get("/session").json()["sessions"]:
            assert session["state"] == "ready"
            server.kodou("sessions", "stop", session["id"])
    age_groups(server)
