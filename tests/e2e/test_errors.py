"""Whatever goes wrong is told clearly, and afterwards this session works again and another was not touched."""

import json
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.drills.crowds import until
from tests.drills.faults import SOON_S, calling, sandbox_of
from tests.e2e.proxy import SocketProxy
from tests.servers import Server, require, running

CALL = "/environment/python/call"


@pytest.fixture(autouse=True)
def afterwards_all_is_well(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test here that has a session of its own: it works afterwards, and a witness's interpreter is the same one."""
    if "own_session" not in request.fixturenames:
        yield
        return
    own = request.getfixturevalue("own_session")
    request.getfixturevalue("witness")
    yield
    reply = own.post("math.sqrt", 16)
    if reply.status_code == 503:  # the sandbox was found gone by this very call
        assert reply.json()["restarted"] is True
        reply = own.post("math.sqrt", 16)
    assert reply.json()["value"] == 4.0


# --- refusals: the call never reached the function ---


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b'{"sessionid": "s", "namepath": "a", }', 400, None),
        ('{"namepath": "a"}'.encode("utf-16"), 400, None),
        (b"[]", 422, None),
        (b'{"sessionid": 1, "namepath": "a"}', 422, "sessionid"),
        (b'{"sessionid": "s"}', 422, "namepath"),
        (b'{"sessionid": "s", "namepath": "a", "argz": []}', 422, "argz"),
        (b'{"sessionid": "s", "namepath": "a", "timeout": true}', 422, "timeout"),
        (b'{"sessionid": "s", "namepath": "a", "timeout": "1_0"}', 422, "timeout"),
        (b'{"sessionid": "s", "namepath": "a", "args": %s' % (b"[" * 100_000), 422, None),
    ],
)
def test_a_body_that_is_no_call(own_session: Any, body: bytes, status: int, field: str | None) -> None:
    reply = own_session.client.post(CALL, content=body)
    assert (reply.status_code, reply.json()["code"], reply.json().get("field")) == (status, "invalid_request", field)


@pytest.mark.parametrize(
    "members",
    [
        {"namepath": 7},
        {"namepath": []},
        {"namepath": [""]},
        {"namepath": [{"nam": "math"}]},
        {"namepath": [{"name": "math", "moduleName": "math"}]},
        {"namepath": "math.sqrt", "args": "4"},
        {"namepath": "math.sqrt", "args": 4},
        {"namepath": "math.sqrt", "kwargs": [4]},
        {"namepath": ["math", {"name": "sqrt", "args": 1}]},
    ],
)
def test_wrong_types_within_a_call(own_session: Any, members: dict[str, Any]) -> None:
    reply = own_session.client.post(CALL, json={"sessionid": own_session.id, **members})
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_request")
    assert reply.json()["detail"]


@pytest.mark.parametrize("args", [b'[{"a": 1, "a": 2}]', b'["\\ud800"]'])
def test_json_that_parsers_disagree_on(own_session: Any, args: bytes) -> None:
    body = b'{"sessionid": "%s", "namepath": "list", "args": [%s]}' % (own_session.id.encode(), args)
    reply = own_session.client.post(CALL, content=body)
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("namepath", "args", "code"),
    [
        ("no_such_module_anywhere.f", [], "name_not_found"),
        (["nosuchname"], [], "name_not_found"),
        (["math", "squirt"], [], "attribute_not_found"),
        (["math", "pi", "nothing"], [], "attribute_not_found"),
        ("math.pi", [1], "not_callable"),
    ],
)
def test_a_namepath_to_nothing(own_session: Any, namepath: Any, args: list[Any], code: str) -> None:
    reply = own_session.post(namepath, *args)
    assert (reply.status_code, reply.json()["code"], reply.json()["error"]) == (422, code, True)


def test_a_body_over_the_limit(server: Any, own_session: Any) -> None:
    reply = own_session.client.post(CALL, content=b" " * (64 * 1024 * 1024 + 1))
    assert (reply.status_code, reply.json()["code"]) == (413, "payload_too_large")


def test_a_form_another_language_and_another_media_type(own_session: Any) -> None:
    page = {"Content-Type": "text/html"}
    assert own_session.client.post(CALL, content=b"{}", headers=page).json()["code"] == "unsupported_media_type"
    assert own_session.client.post("/environment/cobol/call", json={}).json()["code"] == "not_found"
    image = own_session.client.post(
        CALL, json={"sessionid": own_session.id, "namepath": "math.pi"}, headers={"Accept": "image/png"}
    )
    assert (image.status_code, image.json()["code"]) == (406, "not_acceptable")


# --- failures inside: HTTP 200, error true ---


def test_wrong_arguments_are_the_functions_own_complaint(own_session: Any) -> None:
    reply = own_session.call("math.sqrt", "four")
    assert (reply["error"], reply["code"], reply["exception"]["type"]) == (True, "exception", "TypeError")
    assert reply["exception"]["message"]
    assert "runner" not in reply["exception"]["traceback"]


def test_a_value_that_json_cannot_hold(own_session: Any) -> None:
    reply = own_session.call("threading.Lock")
    assert (reply["error"], reply["code"]) == (True, "value_not_serializable")
    assert "lock" in reply["type"]
    assert "lock" in reply["repr"]


def test_output_without_end_is_cut_and_marked(own_session: Any) -> None:
    reply = own_session.call("print", "x" * 10_000_000)
    assert reply["truncated"] is True
    assert 0 < len(reply["stdout"]) <= 65_536


def test_more_items_than_a_reply_may_hold(own_session: Any) -> None:
    reply = own_session.call("itertools.count", timeout=60_000)
    assert (reply["error"], reply["code"]) == (True, "too_many_items")


def test_a_reply_over_the_limit(own_session: Any) -> None:
    reply = own_session.call(["builtins", "str", "zfill"], "x", 65 * 1024 * 1024, timeout=60_000)
    assert (reply["error"], reply["code"]) == (True, "reply_too_large")


def test_sys_exit_is_an_exception_like_others(own_session: Any) -> None:
    reply = own_session.call("sys.exit", 3)
    assert (reply["code"], reply["exception"]["type"]) == ("exception", "SystemExit")


@pytest.mark.parametrize("endless", [("exec", "while True: pass"), ("time.sleep", 3600)])
def test_an_endless_call_ends_at_its_timeout_and_not_before(own_session: Any, endless: tuple[Any, ...]) -> None:
    """(How late the reply may be is held by `tests/unit/sandboxes/test_channel.py`, where no machine is too busy.)"""
    namepath, *args = endless
    own_session.value("math.sqrt", 4)
    started = time.monotonic()
    reply = own_session.post(namepath, *args, timeout=400)
    assert 0.4 <= time.monotonic() - started < SOON_S
    told = reply.json()
    assert (reply.status_code, told["error"], told["code"], told["restarted"]) == (200, True, "timeout", True)
    assert reply.headers["kodou-restarted"] == "true"


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(3600)
    os._exit(0)
while True:
    pass
"""


def test_what_a_timed_out_call_started_is_dead_with_it(own_session: Any) -> None:
    before = len(host_pids(own_session))
    assert own_session.call("exec", DAEMON, timeout=500)["code"] == "timeout"
    own_session.value("math.sqrt", 4)
    assert len(host_pids(own_session)) == before


@pytest.mark.parametrize(
    ("namepath", "args", "ended"),
    [
        ("os._exit", [3], {"exit_code": 3}),
        ("os.abort", [], {"signal": 6}),
        ("os.closerange", [3, 2000], {}),  # as daemons do: it lives, and nobody hears of it
    ],
)
def test_a_worker_that_ends_is_told_with_how_it_ended(
    own_session: Any, namepath: str, args: list[Any], ended: dict[str, int]
) -> None:
    reply = own_session.call(namepath, *args)
    assert (reply["error"], reply["code"], reply["restarted"]) == (True, "worker_died", True)
    assert reply.items() >= ended.items()


def host_pids(session: Any) -> list[int]:
    """The processes of a session's sandbox, as this machine numbers them."""
    namespace = session.value("os.readlink", "/proc/self/ns/pid")
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "ns" / "pid").readlink().name == namespace:
                found.append(int(entry.name))
    return found


def test_a_sandbox_killed_from_outside_is_replaced(server: Any, own_session: Any) -> None:
    pids = host_pids(own_session)
    assert pids
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    reply = own_session.post("math.sqrt", 4)
    assert time.monotonic() - started < SOON_S
    if reply.status_code == 503:
        assert (reply.json()["code"], reply.json()["restarted"]) == ("sandbox_lost", True)
    else:
        assert reply.json()["value"] == 2.0
        assert reply.headers["kodou-restarted"] == "true"


def test_a_sandbox_killed_under_a_call_is_told_soon(server: Any, own_session: Any) -> None:
    pids = host_pids(own_session)
    with calling(own_session) as replying:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reply = replying.result(2 * SOON_S)
    told = reply.json()
    assert told["restarted"] is True
    assert (reply.status_code, told["code"]) in {(503, "sandbox_lost"), (200, "worker_died")}


def test_calls_of_one_session_take_turns_and_too_many_are_refused(server: Any, own_session: Any) -> None:
    replies: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: replies.append(own_session.post("math.sqrt", 4, timeout=60_000)))
        for _ in range(40)
    ]
    with calling(own_session):  # for as long as it takes the others to come
        for thread in threads:
            thread.start()
        until(lambda: len(replies) >= 8, "as many refusals as there are no places for")
        for pid in sandbox_of(server, own_session).workers:
            os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    codes = [reply.json().get("code") for reply in replies]
    assert codes.count("rate_limited") >= 1
    assert codes.count(None) >= 32


# --- nothing of the server's leaves it ---


def test_no_refusal_tells_a_path_or_a_trace(server: Any, own_session: Any) -> None:
    client = own_session.client
    texts = [
        client.post("/environment/python/setup", content=b"{").text,
        client.post("/environment/python/setup", json={"dependencies": ["/etc/passwd"]}).text,
        client.post(CALL, json={"sessionid": "x", "namepath": "a"}).text,
        client.get("/environment/python/../../etc").text,
        own_session.post("nosuchmodule.f").text,
        json.dumps(own_session.call("math.sqrt", "four")),
    ]
    for text in texts:
        assert "Traceback (most recent call last)" not in text or "exception" in text
        assert str(server.data_dir) not in text
        assert not re.search(r"orchestrator[/.]|site-packages", text)


# --- the engine itself is gone ---


@pytest.mark.docker
def test_without_its_engine_the_server_says_so_and_recovers() -> None:
    require("docker")
    target = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    with tempfile.TemporaryDirectory() as directory:
        proxy = SocketProxy(Path(directory) / "s", target)
        try:
            with running("docker", KODOU_DOCKER_URL=f"unix://{directory}/s") as server:
                session = server.session()
                assert session.value("math.sqrt", 4) == 2.0
                proxy.refuse()
                refused = server.client().post("/environment/python/setup", json={})
                assert (refused.status_code, refused.json()["code"]) == (503, "engine_unavailable")
                assert int(refused.headers["retry-after"]) >= 1
                assert session.value("math.sqrt", 9) == 3.0  # its link is not the engine's
                ready = until(lambda: _not_ready(server), "/readyz to say so")  # an answer counts for two seconds
                assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
                assert ready.json()["checks"]["store"] == "ok"
                proxy.resume()
                assert server.session().value("math.sqrt", 16) == 4.0
        finally:
            proxy.close()


def _not_ready(server: Server) -> httpx.Response | None:
    with server.bearing() as anybody:
        ready = anybody.get("/readyz")
    return None if ready.status_code == 200 else ready
