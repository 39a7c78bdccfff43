"""Fault 12: equal setups at the same moment. One build, whoever asks, in however many processes."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.drills.at_rest import at_rest, back_to
from tests.drills.crowds import START_S, at_once, metric
from tests.made_index import MadeIndex
from tests.servers import BASE_IMAGES, REPLY_S, Server, Session

BUILT = 'kodou_builds_total{outcome="ready"}'
CROWD = 20
PROCESSES = 2


def test_twenty_who_ask_at_the_same_moment_get_twenty_sessions_of_one_build(
    server: Server, index: MadeIndex, package: str
) -> None:
    before, built = at_rest(server), metric(server, BUILT)
    server.key("ada")
    index.hold()

    def ask(number: int) -> Session | None:
        if number < CROWD:
            return server.session(dependencies=[package])
        assert index.asked.wait(START_S)
        index.release()
        return None

    sessions = [session for session in at_once(CROWD + 1, ask) if session is not None]
    assert metric(server, BUILT) == built + 1
    assert index.given_of(package) == 1
    assert len({session.id for session in sessions}) == CROWD
    assert [session.value(f"{package}.main") for session in sessions] == [5] * CROWD
    at_once(CROWD, lambda number: sessions[number].close())
    back_to(before, server)


def test_two_processes_and_a_server_that_ask_at_the_same_moment_build_once(
    server: Server, index: MadeIndex, package: str
) -> None:
    with ExitStack() as stack:
        before = at_rest(server)
        client = server.client()
        others = [stack.enter_context(_builder(server, index, package)) for _ in range(PROCESSES)]
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"

        def ask(number: int) -> bool:
            if number < PROCESSES:
                told, _ = others[number].communicate("go\n", timeout=REPLY_S)
                return bool(json.loads(told)["reused"])
            session = server.session(dependencies=[package])
            assert session.value(f"{package}.main") == 5
            session.close()
            return bool(session.setup["environment"]["reused"])

        reused = at_once(PROCESSES + 1, ask)
        assert sorted(reused) == [False, *[True] * PROCESSES]
        environments = client.get("/environment/python").json()["environments"]
        assert [each["packages"] for each in environments].count({package: "1.0"}) == 1
        back_to(before, server)


def test_pruning_beside_a_build_takes_nothing_from_it(server: Server, index: MadeIndex, package: str) -> None:
    before = at_rest(server)
    server.key("ada")
    index.hold()

    def ask(number: int) -> Session | None:
        if number == 0:
            return server.session(dependencies=[package])
        assert index.asked.wait(START_S)
        server.kodou("images", "prune", "--backend", server.backend, "--all", "--yes")
        index.release()
        return None

    session = next(each for each in at_once(2, ask) if each is not None)
    server.kodou("images", "prune", "--backend", server.backend, "--all", "--yes")  # a session holds it by now
    assert session.value(f"{package}.main") == 5
    session.close()
    back_to(before, server)


def _builder(server: Server, index: MadeIndex, package: str) -> "subprocess.Popen[str]":
    """A process that is about to build on the server's data directory, and does so on a line of input."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.drills.build_once", server.backend, package],
        env={
            **os.environ,
            "KODOU_DATA_DIR": str(server.data_dir),
            "KODOU_BASE_IMAGES": BASE_IMAGES,
            "KODOU_INDEX_URL": index.url,
        },
        cwd=Path(__file__).parent.parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
