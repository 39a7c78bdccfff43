"""Fault 10: the wall clock jumps by an hour, either way, under a server that holds sessions and runs calls."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from tests.conftest import engine_required
from tests.drills.at_rest import at_rest, back_to
from tests.drills.conftest import drilled
from tests.drills.crowds import until
from tests.servers import Server

HOUR_S = 3600
TTL_S = 600  # far less than the jump, far more than the test
CALL_S = 3
# faketime's `clock_nanosleep`, which is behind Python's `sleep`, fails where the monotonic clock is left alone.
SLEEP = "import select, time\ntime.sleep = lambda seconds: select.select([], [], [], seconds)\n"


@pytest.fixture
def faketime() -> Path:
    """The library that stands between a program and its clock (Debian: `faketime`)."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        (pytest.fail if engine_required() else pytest.skip)("faketime is not installed")
    return found[0]


def test_a_clock_that_jumps_ends_no_session_no_call_and_no_key(backend: str, faketime: Path, tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0")
    (tmp_path / "sitecustomize.py").write_text(SLEEP)
    prefix = [
        "env",
        f"PYTHONPATH={tmp_path}",
        f"LD_PRELOAD={faketime}",
        f"FAKETIME_TIMESTAMP_FILE={offset}",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",  # as the kernel has it: only the wall clock is ever set
        "NO_FAKE_STAT=1",
    ]
    with drilled(backend, prefix=prefix, KODOU_REAP_INTERVAL_S="0.2") as server:
        before = at_rest(server)
        for jump_s in (HOUR_S, -HOUR_S):
            offset.write_text("+0")
            until(lambda: abs(_clock(server) - time.time()) < HOUR_S / 2, "the right time")
            _jumped(server, f"late{jump_s}", lambda jump_s=jump_s: offset.write_text(f"{jump_s:+d}"))  # type: ignore[misc]
        back_to(before, server)


def _jumped(server: Server, owner: str, jump: Callable[[], object]) -> None:
    sessions = [server.session(ttl=TTL_S), server.session("bob", ttl=TTL_S)]
    late = server.client(owner)  # of a key that nobody has shown yet: nothing of it is in a cache
    clock = _clock(server)
    with ThreadPoolExecutor(2) as threads:
        ends = threads.submit(sessions[0].call, "eval", f"__import__('time').sleep({CALL_S}) or 7", timeout=20_000)
        overdue = threads.submit(sessions[1].call, "time.sleep", 30, timeout=CALL_S * 1000)
        time.sleep(CALL_S / 3)  # both run
        began = time.monotonic()
        jump()
        assert (ends.result()["value"], overdue.result()["code"]) == (7, "timeout")
        assert time.monotonic() - began < TTL_S / 2
    assert abs(_clock(server) - clock) > HOUR_S / 2
    server.kodou("keys", "revoke", server.key(f"other-{owner}")["id"])  # all that is cached is looked at anew
    for session in sessions:
        assert session.value("math.sqrt", 4) == 2.0
    until(lambda: _served(late.post("/environment/python/setup", json={})), "a setup")
    (found,) = (each for each in late.get("/session").json()["sessions"] if each["state"] == "ready")
    sessions.append(server.session(ttl=TTL_S))
    for _ in range(5):  # many a round of the reaper
        time.sleep(0.2)
        assert [session.value("math.sqrt", 9) for session in sessions] == [3.0] * 3
    for session in sessions:
        session.close()
    server.kodou("sessions", "stop", found["id"])


def _served(reply: httpx.Response) -> bool:
    """A machine that is too busy for it is none whose clock was taken for its key's end."""
    assert reply.status_code in (200, 503), reply.text
    return reply.status_code == 200


def _clock(server: Server) -> float:
    """The time as the server has it."""
    with server.bearing() as client:
        return parsedate_to_datetime(client.get("/healthz").headers["Date"]).timestamp()
