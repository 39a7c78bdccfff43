"""Fault 9: a server that crashed comes back, with its data, without its keys, or not at all; and what its sandboxes do."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drills.at_rest import at_rest, back_to
from tests.drills.conftest import drilled
from tests.drills.crowds import until
from tests.drills.faults import sandbox_of, sandboxes_of
from tests.servers import BACKENDS, Server, Session, require

SESSIONS = 5
ORPHAN_S = 3
TTL_S = 5
GONE_S = 120.0  # within which what nobody can use any more has gone


@pytest.fixture(scope="module", params=BACKENDS)
def orphaning(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Its sandboxes do not wait long for it."""
    require(request.param)
    with drilled(request.param, KODOU_KEEP_SESSIONS="1", KODOU_ORPHAN_S=str(ORPHAN_S)) as server:
        yield server


def _opened(server: Server) -> list[Session]:
    return [server.session(f"owner-{number}") for number in range(SESSIONS)]


def test_all_sessions_of_a_crashed_server_are_taken_up_again(backend: str) -> None:
    with drilled(backend, KODOU_KEEP_SESSIONS="1") as server:
        before = at_rest(server)
        sessions = _opened(server)
        workers = [session.value("os.getpid") for session in sessions]
        handles = [sandboxes_of(server, session) for session in sessions]
        server.kill()
        server.start()
        assert [session.value("os.getpid") for session in sessions] == workers
        assert [sandboxes_of(server, session) for session in sessions] == handles
        for session in sessions:
            session.close()
        back_to(before, server)


def test_sandboxes_whose_server_does_not_come_back_end_themselves(orphaning: Server) -> None:
    before = at_rest(orphaning)
    sessions = _opened(orphaning)
    supervisors = [sandbox_of(orphaning, session).supervisor for session in sessions]
    orphaning.kill()
    until(lambda: not any(map(_alive, supervisors)), "orphans to end themselves", within_s=GONE_S)
    orphaning.start()
    for session in sessions:
        assert session.post("math.sqrt", 4).json()["code"] == "session_expired"
    back_to(before, orphaning)


def test_sandboxes_of_a_data_directory_that_was_reset_end_themselves(orphaning: Server) -> None:
    """Another server in the same place is another one: it cannot know what it may touch."""
    session = orphaning.session()
    supervisor = sandbox_of(orphaning, session).supervisor
    orphaning.kill()
    for path in (*orphaning.data_dir.glob("kodou.sqlite*"), orphaning.data_dir / "keys"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    orphaning.key.cache_clear()
    orphaning.start()
    until(lambda: not _alive(supervisor), "the orphan to go", within_s=GONE_S)
    assert session.post("math.sqrt", 4).status_code == 401
    orphaning.session().close()
    until(lambda: not at_rest(orphaning).processes and not at_rest(orphaning).containers, "nothing to be left")


def test_sessions_whose_signing_key_was_taken_away_are_nobody_s_and_end_with_their_ttl(backend: str) -> None:
    with drilled(backend, KODOU_KEEP_SESSIONS="1", KODOU_REAP_INTERVAL_S="1") as server:
        before = at_rest(server)
        sessions = [server.session(f"owner-{number}", ttl=TTL_S) for number in range(SESSIONS)]
        server.kill()
        for path in (server.data_dir / "keys").glob("session-*.key"):
            path.unlink()
        server.start()
        assert {session.post("math.sqrt", 4).status_code for session in sessions} == {404}
        back_to(before, server, within_s=GONE_S)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() != b""
