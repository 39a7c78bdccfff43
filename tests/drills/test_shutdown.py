"""Fault 16: SIGTERM, in the middle of calls and builds. What runs may end, nothing new begins, and nothing is left."""

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.drills.at_rest import at_rest, back_to
from tests.drills.conftest import drilled
from tests.drills.crowds import until
from tests.drills.faults import LONG_S, SOON_S, calling, sandboxes_of
from tests.made_index import made_index
from tests.made_packages import wheel
from tests.servers import STOP_S

CALLS = 4
CALL_S = 3.0
SHUTDOWN_S = 20


def test_running_calls_end_no_new_ones_begin_and_the_server_leaves_with_code_0(backend: str) -> None:
    with drilled(backend, KODOU_SHUTDOWN_S=str(SHUTDOWN_S)) as server, ExitStack() as stack:
        before = at_rest(server)
        late = server.session("late")
        sessions = [server.session(f"caller-{number}") for number in range(CALLS)]
        replies = [stack.enter_context(calling(each, "time.sleep", CALL_S)) for each in sessions]
        server.process.send_signal(signal.SIGTERM)
        until(lambda: _refused(server.url), "the listener to close")
        with pytest.raises(httpx.TransportError):
            late.post("math.sqrt", 4)
        assert [reply.result(SOON_S).json()["error"] for reply in replies] == [False] * CALLS
        assert server.process.wait(STOP_S) == 0
        back_to(before, server)  # sessions end with the server, as it is set (`keep_sessions`)


def test_a_call_that_does_not_end_is_not_waited_for_longer_than_shutdown_s(backend: str) -> None:
    with drilled(backend, KODOU_SHUTDOWN_S="1", KODOU_KEEP_SESSIONS="1") as server:
        before = at_rest(server)
        session = server.session()
        worker = session.value("os.getpid")
        with calling(session) as reply:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(STOP_S) == 0
            refused = reply.result(SOON_S)
        assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
        assert int(refused.headers["retry-after"]) > 0
        server.start()
        assert len(sandboxes_of(server, session)) == 1
        assert session.value("os.getpid") != worker  # the call it was busy with has gone with its worker
        session.close()
        back_to(before, server)


def test_a_second_sigterm_ends_the_server_at_once_and_its_sessions_are_kept(backend: str) -> None:
    with drilled(backend, KODOU_SHUTDOWN_S=str(LONG_S), KODOU_KEEP_SESSIONS="1") as server:
        before = at_rest(server)
        session, busy = server.session(), server.session("busy")
        worker = session.value("os.getpid")
        with calling(busy) as reply:
            server.process.send_signal(signal.SIGTERM)
            until(lambda: _refused(server.url), "the listener to close")
            assert server.process.poll() is None  # the call is waited for
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(SOON_S) == 128 + signal.SIGTERM
            assert isinstance(reply.exception(SOON_S), httpx.TransportError)
        server.start()
        assert session.value("os.getpid") == worker
        assert busy.value("math.sqrt", 4) == 2.0
        for each in (session, busy):
            assert len(sandboxes_of(server, each)) == 1
            each.close()
        back_to(before, server)


def test_a_build_under_way_is_ended_and_leaves_nothing_behind(backend: str, tmp_path: Path) -> None:
    settings = {"KODOU_SHUTDOWN_S": "1"}
    with made_index(tmp_path, wheel) as index, drilled(backend, KODOU_INDEX_URL=index.url, **settings) as server:
        before = at_rest(server)
        client = server.client()
        index.hold()
        with ThreadPoolExecutor(1) as thread:
            reply = thread.submit(client.post, "/environment/python/setup", json={"dependencies": ["tiny"]})
            assert index.asked.wait(SOON_S)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(STOP_S) == 0
            index.release()
            refused = reply.result(SOON_S)
        assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
        back_to(before, server)
        server.start()
        session = server.session(dependencies=["tiny"])
        assert session.value("tiny.main") == 5
        session.close()
        back_to(before, server)


def _refused(url: str) -> bool:
    """Asked on a new connection: one that stands is closed after its next reply."""
    try:
        httpx.get(f"{url}/healthz")
    except httpx.TransportError:
        return True
    return False
