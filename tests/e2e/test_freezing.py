"""Idle sandboxes freeze, and their clients notice nothing but a thaw."""

import signal
import time
from collections.abc import Iterator

import pytest

from orchestrator.sandboxes.bubblewrap.cgroups import CgroupSupport
from tests.servers import BACKENDS, Server, require, running

TICKING = """
import builtins, threading, time

def tick():
    last = time.monotonic()
    while True:
        time.sleep(0.005)
        now = time.monotonic()
        builtins.longest, last = max(builtins.longest, now - last), now

builtins.longest = 0
threading.Thread(target=tick, daemon=True).start()
"""
STOOD_S = 1.5


@pytest.fixture(scope="module", params=BACKENDS)
def freezing(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that freezes what is idle for a moment."""
    require(request.param)
    if request.param == "bubblewrap" and not CgroupSupport.detect().freezes():
        pytest.skip("no control group of this user's has a freezer")
    settings = {"KODOU_FREEZE_IDLE_S": "0.2", "KODOU_REAP_INTERVAL_S": "0.2", "KODOU_KEEP_SESSIONS": "1"}
    with running(request.param, **settings) as found:
        yield found


def until_frozen(server: Server, count: int = 1) -> None:
    wanted = f"kodou_frozen_sandboxes {count}.0"
    until = time.monotonic() + 60
    while wanted not in server.bearing().get("/metrics").text.splitlines():
        assert time.monotonic() < until, server.log.read_text()[-2000:]
        time.sleep(0.05)


def test_a_session_goes_on_where_it_was_frozen(freezing: Server) -> None:
    session = freezing.session(env={"MARK": "kept"})
    worker = session.value("os.getpid")
    session.value("exec", TICKING, {})
    until_frozen(freezing)
    time.sleep(STOOD_S)
    reply = session.post("os.getpid")
    assert reply.json()["value"] == worker
    assert "thaw;dur=" in reply.headers["Server-Timing"]
    assert reply.headers["Kodou-Cold"] == "none"
    assert "Kodou-Restarted" not in reply.headers
    session.value("time.sleep", 0.1)
    assert session.value("eval", "__import__('builtins').longest") >= STOOD_S
    assert session.value("eval", "__import__('threading').active_count()") == 2

    # A deadline right after a thaw is as any other.
    until_frozen(freezing)
    late = session.call("time.sleep", 60, timeout=300)
    assert (late["code"], late["restarted"]) == ("timeout", True)
    assert session.value("os.getenv", "MARK") == "kept"

    # What a crash leaves frozen is taken up again.
    worker = session.value("os.getpid")
    until_frozen(freezing)
    freezing.process.send_signal(signal.SIGKILL)
    freezing.process.wait(20)
    freezing.start()
    assert session.value("os.getpid") == worker

    until_frozen(freezing)
    session.close()
    assert session.post("math.sqrt", 4).status_code == 404


def test_a_frozen_session_is_stopped_from_the_command_line(freezing: Server) -> None:
    session = freezing.session()
    session.value("math.sqrt", 4)
    until_frozen(freezing)
    freezing.kodou("sessions", "stop", "--all")
    assert session.post("math.sqrt", 4).json()["code"] == "session_expired"
