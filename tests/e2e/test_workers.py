"""Several API processes (`kodou serve --workers 2`): one server to whoever asks, whichever of them answers."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest

from tests.drills.crowds import call_request, connected, leave, metric, until
from tests.drills.faults import calling, sandbox_of
from tests.e2e.parts import Part, parts_of
from tests.servers import REPLY_S, Server, Session, require, running

pytestmark = pytest.mark.bubblewrap

WORKERS = 2
CALL = "/environment/python/call"
LARGE = 10_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    require("bubblewrap")
    with running("bubblewrap", KODOU_WORKERS=str(WORKERS)) as found:
        yield found


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[Session]:
    opened = server.session("worked")
    yield opened
    opened.close()


def workers_of(server: Server) -> list[int]:
    return sorted(pid for pid in children(server.process.pid) if is_worker(pid))


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]


def is_worker(pid: int) -> bool:
    try:
        return b"orchestrator.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def all_up(server: Server) -> bool:
    return len(workers_of(server)) == WORKERS and metric(server, "kodou_workers") == WORKERS


def afresh(session: Session, namepath: object, *args: object) -> httpx.Response:
    """A call on a connection of its own."""
    body = {"sessionid": session.id, "namepath": namepath, "args": list(args)}
    headers = {"Authorization": session.client.headers["Authorization"]}
    return httpx.post(f"{session.client.base_url}{CALL}", json=body, headers=headers, timeout=REPLY_S)


def test_any_worker_serves_any_session(server: Server, session: Session) -> None:
    pid = session.value("os.getpid")
    assert len(workers_of(server)) == WORKERS
    for silent in workers_of(server):
        os.kill(silent, signal.SIGSTOP)  # then it is another that answers
        try:
            assert [afresh(session, "os.getpid").json()["value"] for _ in range(3)] == [pid] * 3
        finally:
            os.kill(silent, signal.SIGCONT)


def test_what_is_refused_is_refused_as_ever(server: Server, session: Session) -> None:
    with server.bearing("nobody's") as stranger:
        assert stranger.post(CALL, json={"sessionid": session.id, "namepath": "a"}).json()["code"] == "unauthorized"
    assert session.post("math.nothing").json()["code"] == "attribute_not_found"
    assert session.client.get("/nowhere").status_code == 404
    assert session.client.head(CALL).status_code == 405
    head = session.client.head("/healthz")
    assert (head.status_code, head.content, int(head.headers["content-length"]) > 0) == (200, b"", True)
    assert httpx.get(f"{server.url}/healthz", headers={"Host": "elsewhere.example"}).status_code == 421
    assert session.client.get("/openapi.json").json()["info"]["title"] == "kodou"


def test_large_bodies_and_replies_of_several_at_once(session: Session) -> None:
    def work(number: int) -> int:
        text = str(number) * LARGE
        reply = afresh(session, "str.upper", text)
        assert reply.json()["value"] == text
        return len(reply.content)

    with ThreadPoolExecutor(3) as threads:
        assert all(size > LARGE for size in threads.map(work, range(3)))


def test_files_go_up_and_content_comes_down(session: Session) -> None:
    call = json.dumps({"sessionid": session.id, "namepath": "bytes.upper", "args": [{"$file": "data"}]}).encode()
    body, content_type = Part.encode({"call": Part(call), "data": Part(b"ab" * LARGE)})
    headers = {"Content-Type": content_type, "Accept": "multipart/form-data"}
    reply = session.client.post(CALL, content=body, headers=headers)
    assert reply.status_code == 200, reply.text
    files = [part.content for name, part in parts_of(reply).items() if name != "reply"]
    assert files == [b"AB" * LARGE]


def test_compositions_and_streams(session: Session) -> None:
    pipeline = {"args": [[1, 2, 3]], "pipeline": ["sum", ["math", "sqrt"]]}
    reply = session.client.post("/kompose", params={"jwt": session.id}, json=pipeline)
    assert reply.json().get("value") == 6**0.5, reply.text
    body = {"sessionid": session.id, "namepath": "eval", "args": ["(print(i) or i for i in range(3))"]}
    with session.client.stream("POST", CALL, json=body, headers={"Accept": "text/event-stream"}) as stream:
        events = [line for line in stream.iter_lines() if line.startswith("event:")]
    assert events[-1] == "event: result"
    assert len(events) > 3


def test_a_client_that_leaves_in_its_body_is_told_from_one_that_was_served(server: Server, session: Session) -> None:
    left = 'kodou_http_requests_total{method="POST",route="/environment/{language}/call",status="499"}'
    before = metric(server, left)
    leave(server, call_request(session, "len", "x" * 1000)[:-10], after_s=0.2)
    until(lambda: metric(server, left) == before + 1, "the owner to learn of it")
    assert session.value("math.sqrt", 4) == 2.0


def test_a_killed_worker_costs_its_requests_in_flight_and_no_more(server: Server) -> None:
    until(lambda: all_up(server), "all workers")
    sessions = [server.session(f"loaded-{number}") for number in range(4)]
    pids = [session.value("os.getpid") for session in sessions]
    restarts = metric(server, "kodou_worker_restarts_total")
    ended = Event()

    def work(number: int) -> tuple[int, int]:
        """How many calls were answered, and how many connections were cut."""
        session, answered, cut = sessions[number % len(sessions)], 0, 0
        with httpx.Client(base_url=server.url, headers=session.client.headers, timeout=REPLY_S) as client:
            while not ended.is_set():
                body = {"sessionid": session.id, "namepath": "operator.add", "args": [number, answered]}
                try:
                    reply = client.post(CALL, json=body)
                except httpx.TransportError:
                    cut += 1
                else:
                    assert reply.json()["value"] == number + answered
                    answered += 1
        return answered, cut

    with ThreadPoolExecutor(12) as threads:
        working = [threads.submit(work, number) for number in range(12)]
        try:
            for killed in workers_of(server)[:1]:
                os.kill(killed, signal.SIGKILL)
                until(lambda pid=killed: pid not in workers_of(server) and all_up(server), "a fresh worker")
            for session in sessions:
                afresh(session, "math.sqrt", 4)
        finally:
            ended.set()
        told = [each.result(REPLY_S) for each in working]
    assert all(answered > 0 for answered, _ in told)
    assert all(cut <= 1 for _, cut in told), told
    assert metric(server, "kodou_worker_restarts_total") == restarts + 1
    assert [session.value("os.getpid") for session in sessions] == pids
    for session in sessions:
        session.close()


def test_what_a_killed_worker_had_under_way_is_run_to_its_end_once(server: Server, session: Session) -> None:
    until(lambda: all_up(server), "all workers")
    held = Path(f"/proc/{sandbox_of(server, session).supervisor}/root/tmp/held")
    waits = "[__import__('time').sleep(0.01) for _ in iter(lambda: __import__('os').path.exists('/tmp/held'), False)]"
    with calling(session, "eval", f"open('/tmp/held', 'x'), {waits}, open('/tmp/marks', 'a').write('x')") as reply:
        until(held.exists, "the call to run")
        for pid in workers_of(server):
            os.kill(pid, signal.SIGKILL)
        assert isinstance(reply.exception(REPLY_S), httpx.TransportError)
    held.unlink()
    until(lambda: all_up(server), "fresh workers")
    assert afresh(session, "eval", "open('/tmp/marks').read()").json()["value"] == "x"


def test_a_worker_that_is_asked_to_end_answers_first(server: Server, session: Session) -> None:
    until(lambda: all_up(server), "all workers")
    before = workers_of(server)
    with calling(session, "time.sleep", 1) as reply:
        for pid in before:
            os.kill(pid, signal.SIGTERM)
        assert reply.result(REPLY_S).json()["error"] is False
    until(lambda: all_up(server) and not set(before) & set(workers_of(server)), "fresh workers")


def test_no_worker_outlives_its_owner_and_running_calls_are_waited_for() -> None:
    require("bubblewrap")
    with running("bubblewrap", KODOU_WORKERS=str(WORKERS), KODOU_SHUTDOWN_S="20", KODOU_ORPHAN_S="300") as server:
        session = server.session()
        interpreter = session.value("os.getpid")
        first = workers_of(server)
        server.kill()
        until(lambda: not any(map(is_worker, first)), "workers to end with a killed owner")
        server.start()
        assert afresh(session, "os.getpid").json()["value"] == interpreter
        second = workers_of(server)
        with connected(server) as idle, calling(session, "time.sleep", 2) as reply:
            server.process.send_signal(signal.SIGTERM)
            assert reply.result(REPLY_S).json()["error"] is False
            assert idle.recv(1) == b""
        assert server.process.wait(REPLY_S) == 0
        assert not any(map(is_worker, second))
        assert "Traceback" not in server.log.read_text()
