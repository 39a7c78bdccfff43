"""The SDK's protocol core: what it sends, and that nothing a server sends gets past it but a value or a `KodouError`."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kodou import KodouError, Reply, protocol, step
from kodou.errors import (
    BadReply,
    BuildFailed,
    CallFailed,
    CallTimeout,
    RateLimited,
    Refused,
    RemoteError,
    ServerDefect,
    SessionNotFound,
    Unavailable,
    UnknownVersion,
    ValueNotSerializable,
    WorkerDied,
)
from kodou.protocol import (
    Response,
    call_request,
    close_request,
    read_call,
    read_closed,
    read_setup,
    setup_request,
)
from kodou.values import Values

READY = {
    "sessionid": "s.s.s",
    "error": False,
    "return": {"error": False, "value": "s.s.s"},
    "environment": {
        "id": "py3.12-9f2c",
        "language": "python",
        "version": "3.12.4",
        "packages": {"numpy": "2.4.6"},
        "reused": True,
    },
    "expires": "2030-01-01T00:00:00Z",
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["error", "code", "value", "exception", "detail", "status", "environment", "sessionid", "expires"]
)


def response(members: Any, status: int = 200, **headers: str) -> Response:
    return Response(
        status, {name.replace("_", "-"): text for name, text in headers.items()}, json.dumps(members).encode()
    )


def sent(request: Any) -> Any:
    return json.loads(request.body)


def test_setup_sends_only_what_was_given() -> None:
    request = setup_request(["numpy"])
    assert (request.method, request.path) == ("POST", "/environment/python/setup")
    assert sent(request) == {"dependencies": ["numpy"]}
    assert request.headers == {"Accept": "application/json", "Content-Type": "application/json"}


def test_setup_sends_version_and_options_and_asks_for_a_stream() -> None:
    request = setup_request([], "3.12", options={"ttl": 60, "refresh": True}, stream=True)
    assert sent(request) == {"dependencies": [], "version": "3.12", "ttl": 60, "refresh": True}
    assert request.headers["Accept"] == "text/event-stream"


def test_setup_takes_no_single_string_for_a_list() -> None:
    with pytest.raises(TypeError, match="list of strings"):
        setup_request("numpy")


def test_a_language_cannot_change_the_path() -> None:
    assert setup_request([], language="../x").path == "/environment/..%2Fx/setup"


def test_call_sends_namepath_args_kwargs_and_milliseconds() -> None:
    request = call_request("s", ["numpy", step("array", [2, 4, 6]), "sum"], [1], {"axis": 0}, timeout_s=1.0001)
    assert request.path == "/environment/python/call"
    assert sent(request) == {
        "sessionid": "s",
        "timeout": 1001,
        "namepath": ["numpy", {"name": "array", "args": [[2, 4, 6]]}, "sum"],
        "args": [1],
        "kwargs": {"axis": 0},
    }


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused_here(timeout: float) -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        call_request("s", "math.sqrt", [9], timeout_s=timeout)


def test_a_step_carries_keyword_arguments() -> None:
    assert step("full", 3, fill_value=0) == {"name": "full", "args": [3], "kwargs": {"fill_value": 0}}
    assert step("now") == {"name": "now", "args": []}


@given(st.lists(json_values, max_size=3))
def test_arguments_arrive_as_they_were_given(args: list[Any]) -> None:
    body = call_request("s", "f", args).body
    sent = json.loads(body, parse_constant=pytest.fail)  # type: ignore[arg-type]
    assert repr(Values({}).decode(sent["args"])) == repr(args)


def test_setup_is_read() -> None:
    setup = read_setup(response(READY))
    assert setup.session_id == "s.s.s"
    assert setup.expires == datetime(2030, 1, 1, tzinfo=UTC)
    assert (setup.environment.version, dict(setup.environment.packages)) == ("3.12.4", {"numpy": "2.4.6"})
    assert setup.environment.reused


@pytest.mark.parametrize("missing", ["sessionid", "environment"])
def test_a_setup_without_its_members_is_a_bad_reply(missing: str) -> None:
    with pytest.raises(BadReply, match=missing):
        read_setup(response({name: value for name, value in READY.items() if name != missing}))


def test_call_is_read() -> None:
    assert read_call(response({"error": False, "value": 12})) == Reply(12)
    full = {
        "error": False,
        "value": None,
        "type": "NoneType",
        "stdout": "a",
        "stderr": "b",
        "truncated": True,
        "ms": 1.5,
    }
    assert read_call(response(full)) == Reply(None, "NoneType", "a", "b", truncated=True, ms=1.5)


def test_what_the_server_says_of_a_call_beside_its_body_is_read() -> None:
    headers = {
        "kodou_cold": "session",
        "kodou_restarted": "true",
        "server_timing": "auth;dur=0.05, start;dur=12, run;dur=3.25",
    }
    reply = read_call(response({"error": False, "value": 1}, **headers))
    assert (reply.cold, reply.restarted) == ("session", True)
    assert reply.timings == {"auth": 0.05, "start": 12.0, "run": 3.25}


@given(st.text())
def test_whatever_the_timings_are_they_break_nothing(header: str) -> None:
    assert all(isinstance(ms, float) for ms in read_call(response({"value": 1}, server_timing=header)).timings.values())


def test_an_integer_of_any_size_is_exact() -> None:
    assert read_call(response({"error": False, "value": 2**200})).value == 2**200


def test_what_the_function_raised_is_a_remote_error() -> None:
    exception = {"type": "ValueError", "message": "no", "traceback": 'File "<stdin>", line 1\n'}
    with pytest.raises(RemoteError) as caught:
        read_call(response({"error": True, "code": "exception", "exception": exception, "stdout": "hi\n", "ms": 2}))
    assert str(caught.value) == "ValueError: no"
    assert (caught.value.type, caught.value.message, caught.value.stdout) == ("ValueError", "no", "hi\n")
    assert caught.value.remote_traceback == exception["traceback"]
    assert caught.value.ms == 2


@pytest.mark.parametrize(
    ("members", "kind", "attribute", "value"),
    [
        ({"code": "timeout", "restarted": True, "detail": "too long"}, CallTimeout, "restarted", True),
        ({"code": "worker_died", "signal": 9}, WorkerDied, "signal", 9),
        ({"code": "worker_died", "exit_code": 3}, WorkerDied, "exit_code", 3),
        ({"code": "value_not_serializable", "type": "socket", "repr": "<s>"}, ValueNotSerializable, "repr", "<s>"),
        ({"code": "to_come"}, CallFailed, "restarted", False),
    ],
)
def test_a_call_without_a_value_raises_by_its_code(
    members: dict[str, Any], kind: type[CallFailed], attribute: str, value: object
) -> None:
    with pytest.raises(kind) as caught:
        read_call(response({"error": True, **members}))
    assert type(caught.value) is kind
    assert getattr(caught.value, attribute) == value


@pytest.mark.parametrize(
    ("status", "members", "kind", "attribute", "value"),
    [
        (404, {"code": "session_not_found"}, SessionNotFound, "status", 404),
        (422, {"code": "unknown_version", "offered": ["3.12.4"]}, UnknownVersion, "offered", ["3.12.4"]),
        (422, {"code": "build_failed", "log": "gcc: no"}, BuildFailed, "log", "gcc: no"),
        (429, {"code": "rate_limited"}, RateLimited, "after_s", 7.0),
        (418, {"code": "to_come"}, Refused, "code", "refused"),
        (503, {"code": "to_come"}, Unavailable, "after_s", 7.0),
        (500, {"code": "internal", "request_id": "r1"}, ServerDefect, "request_id", "r1"),
    ],
)
def test_a_refusal_raises_by_its_code(
    status: int, members: dict[str, Any], kind: type[KodouError], attribute: str, value: object
) -> None:
    with pytest.raises(kind) as caught:
        read_call(response({"error": True, "detail": "why", **members}, status, retry_after="7", x_request_id="r0"))
    assert type(caught.value) is kind
    assert getattr(caught.value, attribute) == value
    assert str(caught.value) == "why"


def test_a_proxy_s_error_page_is_told_as_such() -> None:
    with pytest.raises(BadReply, match=r"status 502.*<html>"):
        read_call(Response(502, {}, b"<html>Bad gateway</html>"))


def test_an_integer_that_python_does_not_read_is_told_as_that() -> None:
    with pytest.raises(BadReply, match=r"cannot be read here: .*set_int_max_str_digits"):
        read_call(Response(200, {}, b'{"error": false, "value": ' + b"9" * 5000 + b"}"))


def test_closing_reads_an_empty_reply_and_a_refusal() -> None:
    assert sent(close_request("s")) == {"sessionid": "s"}
    read_closed(Response(204, {}, b""))
    read_closed(response({"error": False}))
    with pytest.raises(Refused):
        read_closed(response({"error": True, "code": "forbidden"}, 403))


@given(st.integers(200, 599), json_values | st.dictionaries(names, json_values, max_size=6))
def test_whatever_json_comes_back_is_a_value_or_an_error_of_ours(status: int, members: Any) -> None:
    for read in (read_call, read_setup, read_closed):
        with suppress(KodouError):
            read(response(members, status))


@given(st.integers(200, 599), st.binary())
def test_whatever_bytes_come_back_are_an_error_of_ours(status: int, body: bytes) -> None:
    with pytest.raises(KodouError):
        read_setup(Response(status, {}, body))


@pytest.mark.parametrize(
    ("status", "headers", "body", "told"),
    [
        (302, {"location": "https://login", "content-type": "text/html"}, b"", ["302", "https://login", "text/html"]),
        (301, {"content-type": "application/json"}, b"{}", ["301", "application/json"]),
        (200, {"content-type": "text/html"}, b"<html>", ["200", "text/html", "<html>"]),
        (502, {}, b"Bad gateway", ["502", "no content type", "Bad gateway"]),
    ],
)
def test_what_is_no_kodou_server_is_told_as_what_came(
    status: int, headers: dict[str, str], body: bytes, told: list[str]
) -> None:
    with pytest.raises(BadReply) as caught:
        protocol.read_call(Response(status, headers, body))
    assert all(part in str(caught.value) for part in [*told, "KODOU_URL"])
    assert caught.value.status == status
