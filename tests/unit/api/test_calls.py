import asyncio
import json
from typing import Any

import httpx
import pytest
from runner import frames

from orchestrator.api import call_bodies
from orchestrator.errors import (
    EngineUnavailable,
    KodouError,
    RateLimited,
    SessionExpired,
    SessionNotFound,
    ShuttingDown,
)
from orchestrator.sandboxes.replies import (
    NotSerializable,
    Raised,
    RefusedCall,
    Reply,
    TimedOut,
    Value,
    Violation,
    WorkerDied,
)
from orchestrator.sandboxes.work import Work

pytestmark = pytest.mark.anyio

URL = "/environment/python/call"
CALL = {"sessionid": "s-1", "namepath": ["math", "sqrt"], "args": [4]}


async def post(api: Any, body: object, headers: dict[str, str] | None = None, url: str = URL) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await api.client.post(url, content=content, headers={**await api.bearer(), **(headers or {})})


async def test_body_and_reply_pass_through_byte_for_byte_but_for_the_session_id(api: Any) -> None:
    api.sessions.reply = Value(b'{ "error":false,  "value": 1e2}')
    body = b'{"namepath":  "math.sqrt", "args":[4.0e0],\n "sessionid":"s-1"}'
    reply = await post(api, body)
    assert (reply.status_code, reply.content) == (200, b'{ "error":false,  "value": 1e2}')
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(reply.content))
    assert "kodou-restarted" not in reply.headers
    passed_on = b'{"namepath":  "math.sqrt", "args":[4.0e0],\n "sessionid":""}'
    assert api.sessions.calls == [
        {
            "sessionid": "s-1",
            "owner": "ada",
            "timeout_s": api.settings.call_timeout_ms / 1000,
            "body": passed_on,
        }
    ]
    assert api.sessions.work == [Work(frames.CALL, passed_on)]


async def test_a_session_id_that_is_an_argument_too_stays_one(api: Any) -> None:
    body = b'{"namepath": "len", "args": ["s-1"], "sessionid": "s-1"}'
    await post(api, body)
    assert [call["body"] for call in api.sessions.calls] == [body]


@pytest.mark.parametrize(
    "made",
    [
        Raised(b'{"error": true, "code": "exception"}'),
        NotSerializable(b'{"error": true, "code": "value_not_serializable"}'),
    ],
)
async def test_what_the_function_raised_is_a_reply_not_a_refusal(api: Any, made: Raised | NotSerializable) -> None:
    api.sessions.reply = made
    reply = await post(api, CALL)
    assert (reply.status_code, reply.content) == (200, made.body)


@pytest.mark.parametrize(
    ("made", "members"),
    [
        (TimedOut(), {"code": "timeout"}),
        (WorkerDied(exit_code=3, signal=None), {"code": "worker_died", "exit_code": 3}),
        (WorkerDied(exit_code=0, signal=None), {"code": "worker_died", "exit_code": 0}),
        (WorkerDied(exit_code=None, signal=9), {"code": "worker_died", "signal": 9}),
        (WorkerDied(exit_code=None, signal=None), {"code": "worker_died"}),
    ],
)
async def test_an_interpreter_that_was_replaced_is_told(api: Any, made: Reply, members: dict[str, object]) -> None:
    api.sessions.reply = made
    reply = await post(api, CALL)
    told = reply.json()
    assert reply.status_code == 200
    assert reply.headers.get_list("kodou-restarted") == ["true"]
    assert told.pop("detail")
    assert told == {"error": True, "restarted": True, **members}


async def test_a_call_that_was_not_begun_in_time_is_told_so(api: Any) -> None:
    api.sessions.reply = TimedOut(restarted=False, begun=False)
    reply = await post(api, CALL)
    detail = "its time was over before its turn came: it was not begun"
    assert reply.json() == {"error": True, "code": "timeout", "detail": detail}
    assert "kodou-restarted" not in reply.headers


async def test_a_sandbox_that_broke_its_protocol_is_lost_and_says_so(api: Any) -> None:
    api.sessions.reply = Violation("sent garbage from /secret")
    reply = await post(api, CALL)
    assert (reply.status_code, reply.json()["code"], reply.json()["restarted"]) == (503, "sandbox_lost", True)
    assert reply.headers["retry-after"]
    assert "secret" not in reply.text


@pytest.mark.parametrize("made", [Value(b"{}"), RefusedCall("name_not_found", "no", None), TimedOut()])
async def test_a_call_that_ran_in_a_fresh_sandbox_says_so_once(api: Any, made: Reply) -> None:
    api.sessions.reply = made
    api.sessions.restarted = True
    assert (await post(api, CALL)).headers.get_list("kodou-restarted") == ["true"]


@pytest.mark.parametrize("code", sorted(frames.REFUSALS - {"not_acceptable"}))
async def test_what_the_runner_refuses_is_a_problem_with_its_code(api: Any, code: str) -> None:
    api.sessions.reply = RefusedCall(code, "no module named 'nmpy'", "namepath")
    reply = await post(api, CALL)
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem["field"]) == (422, code, "namepath")
    assert problem["detail"] == "no module named 'nmpy'"
    assert "stage" not in problem


async def test_a_refusal_inside_a_composition_says_where(api: Any) -> None:
    api.sessions.reply = RefusedCall("not_callable", "x", "pipeline[2][0]", stage=2, item=0)
    problem = (await post(api, CALL)).json()
    assert (problem["stage"], problem["item"]) == (2, 0)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SessionNotFound("x"), 404),
        (SessionExpired("x"), 410),
        (RateLimited("x", after_s=1), 429),
        (EngineUnavailable("x"), 503),
        (ShuttingDown("x"), 503),
    ],
)
async def test_what_sessions_refuse_is_a_problem(api: Any, error: KodouError, status: int) -> None:
    api.sessions.reply = error
    reply = await post(api, CALL)
    assert (reply.status_code, reply.json()["code"]) == (status, error.code)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (250, 0.25),
        (0.5, 0.0005),
        ("20000", 20),
        ("0000001", 0.001),
        (10**9, 600),
        ("9999999", 600),
        ("20000000", 600),
        ("9" * 20, 600),
        (1e300, 600),
    ],
)
async def test_a_timeout_is_milliseconds_and_at_most_the_maximum(api: Any, value: object, seconds: float) -> None:
    assert (await post(api, {**CALL, "timeout": value})).status_code == 200
    assert api.sessions.calls[0]["timeout_s"] == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    ["0", "-1", "-0.5", '"0"', '"-5"', '"1_000"', '" 5 "', '"٣"', '"123456789012345678901"', '"1e3"', '""', "NaN", "Infinity",
     "-Infinity", "1e999", "true", "null", "[]", "{}"],
)  # fmt: skip
async def test_any_other_timeout_is_refused_by_name(api: Any, value: str) -> None:
    reply = await post(api, b'{"sessionid": "s", "namepath": "a", "timeout": %s}' % value.encode())
    assert (reply.status_code, reply.json()["code"], reply.json()["field"]) == (422, "invalid_request", "timeout")
    assert not api.sessions.calls


@pytest.mark.parametrize(
    "body",
    [
        b'{"sessionid": "s", "namepath": "a", "args": [NaN, -Infinity]}',
        b'{"sessionid": "s", "namepath": "a", "args": [1e999]}',
    ],
)
async def test_numbers_that_json_lacks_reach_the_function(api: Any, body: bytes) -> None:
    assert (await post(api, body)).status_code == 200
    assert api.sessions.calls[0]["body"] == body


async def test_integers_of_any_size_reach_the_function(api: Any) -> None:
    for nan in (b"", b", NaN"):
        body = b'{"sessionid": "s", "namepath": "a", "args": [%s%s]}' % (b"7" * 6000, nan)
        assert (await post(api, body)).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, None),
        (b"{", 400, None),
        (b'{"sessionid": "s", "namepath": "a"', 400, None),
        (b'\xef\xbb\xbf{"sessionid": "s", "namepath": "a"}', 400, None),
        ('{"sessionid": "s", "namepath": "a"}'.encode("utf-16"), 400, None),
        (b'{"sessionid": "\xff", "namepath": "a"}', 400, None),
        (b'{"sessionid": "s", "namepath": "a", "args": ["\xff"]}', 400, None),
        (b"[]", 422, None),
        (b'"text"', 422, None),
        (b"{}", 422, "namepath"),
        (b'{"sessionid": "s"}', 422, "namepath"),
        (b'{"namepath": "a"}', 422, "sessionid"),
        (b'{"namepath": "a", "sessionid": null}', 422, "sessionid"),
        (b'{"namepath": "a", "sessionid": 7}', 422, "sessionid"),
        (b'{"namepath": "a", "sessionid": "s", "argz": []}', 422, "argz"),
        (b'{"namepath": "a", "sessionid": "s", "argz": [], "x": NaN}', 422, "argz"),
        (b'{"namepath": "a", "sessionid": "\\ud800", "argz": 1}', 422, None),
    ],
)
async def test_a_body_that_is_no_call_is_refused_saying_why(
    api: Any, body: bytes, status: int, field: str | None
) -> None:
    reply = await post(api, body)
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem.get("field")) == (status, "invalid_request", field)
    assert problem["detail"]
    assert not api.sessions.calls


async def test_every_unknown_member_is_named(api: Any) -> None:
    reply = await post(api, {**CALL, "argz": 1, "keywords": {}})
    assert [fault["field"] for fault in reply.json()["errors"]] == ["argz", "keywords"]


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_deep_nesting_is_refused_naming_the_limit(api: Any, opening: bytes) -> None:
    reply = await post(api, b'{"sessionid": "s", "namepath": "a", "args": [%s' % (opening * 100_000))
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_request")
    assert str(api.settings.max_depth) in reply.json()["detail"]


async def test_a_large_flat_body_is_not_called_deep(api: Any) -> None:
    body = json.dumps({"sessionid": "s", "namepath": "a", "args": [[[i, "[[["] for i in range(100_000)]]}).encode()
    assert len(body) > 1024 * 1024
    assert (await post(api, body)).status_code == 200


async def test_a_large_body_that_holds_nan_is_taken(api: Any) -> None:
    body = b'{"sessionid": "s", "namepath": "a", "args": [%s NaN]}' % (b"1," * 1024 * 1024)
    assert (await post(api, body)).status_code == 200


@pytest.mark.parametrize(
    ("members", "status", "says"),
    [
        (b'"args": [NaN%s]', 400, '{"$float": "NaN"}'),
        (b'"args": [%s', 400, '{"$float": "NaN"}'),
        (b'"argz": "%s"', 422, "argz"),
    ],
)
async def test_a_very_large_body_is_not_looked_at_slowly(
    api: Any, monkeypatch: pytest.MonkeyPatch, members: bytes, status: int, says: str
) -> None:
    monkeypatch.setattr(call_bodies, "members_slowly", None)
    body = b'{"sessionid": "s", "namepath": "a", %s}' % (members % (b" " * (8 * 1024 * 1024)))
    reply = await post(api, body)
    assert (reply.status_code, reply.json()["code"]) == (status, "invalid_request")
    assert says in reply.json()["detail"]
    assert not api.sessions.calls


async def test_a_very_large_body_without_a_namepath_is_refused_by_name(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_bodies, "members_slowly", None)
    reply = await post(api, b'{"sessionid": "s"%s}' % (b" " * (8 * 1024 * 1024)))
    assert (reply.status_code, reply.json()["field"]) == (422, "namepath")


async def test_the_session_may_be_named_in_a_header(api: Any) -> None:
    assert (await post(api, {"namepath": "math.pi"}, {"X-Session-ID": "s-2"})).status_code == 200
    assert (await post(api, CALL, {"X-Session-ID": "s-1"})).status_code == 200
    assert [call["sessionid"] for call in api.sessions.calls] == ["s-2", "s-1"]


async def test_two_sessions_are_refused(api: Any) -> None:
    reply = await post(api, CALL, {"X-Session-ID": "s-2"})
    assert (reply.status_code, reply.json()["field"]) == (422, "sessionid")
    assert not api.sessions.calls


async def test_accept_headers_of_several_lines_are_one_list(api: Any) -> None:
    lines = [("Accept", "image/png;q=0.5"), ("Accept", "text/csv"), ("Accept", "application/json;q=0.1")]
    headers = httpx.Headers([*(await api.bearer()).items(), *lines])
    assert (await api.client.post(URL, json=CALL, headers=headers)).status_code == 200
    assert api.sessions.work[-1].forms == ("csv", "png", "json")


async def test_the_accept_header_chooses_the_forms_of_the_reply(api: Any) -> None:
    for accept in ("*/*", "application/json; profile=nonfinite", "image/png, application/json;q=0.5"):
        assert (await post(api, CALL, {"Accept": accept})).status_code == 200
    asked = [(work.flags, work.forms) for work in api.sessions.work]
    assert asked == [(0, ()), (frames.NONFINITE_AS_STRINGS, ()), (0, ("png", "json"))]


async def test_a_form_that_there_is_not_is_refused_naming_those_there_are(api: Any) -> None:
    reply = await post(api, CALL, {"Accept": "text/html"})
    assert (reply.status_code, reply.json()["code"]) == (406, "not_acceptable")
    assert "application/json" in reply.json()["available"]
    assert not api.sessions.calls


async def test_a_form_that_the_value_lacks_is_refused_naming_those_it_has(api: Any) -> None:
    api.sessions.reply = RefusedCall("not_acceptable", "an int is no image", None, available=("json", "text"))
    reply = await post(api, CALL, {"Accept": "image/png"})
    assert (reply.status_code, reply.json()["code"]) == (406, "not_acceptable")
    assert reply.json()["available"] == ["application/json", "text/plain"]


async def test_a_body_that_is_said_to_be_no_json_is_refused(api: Any) -> None:
    reply = await post(api, CALL, {"Content-Type": "application/xml"})
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")
    assert not api.sessions.calls


async def test_a_compressed_body_is_refused(api: Any) -> None:
    reply = await post(api, CALL, {"Content-Encoding": "gzip"})
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")


async def test_an_unknown_language_is_not_found(api: Any) -> None:
    reply = await post(api, CALL, url="/environment/cobol/call")
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


async def test_a_key_without_the_scope_is_forbidden_to_call(api: Any) -> None:
    reply = await api.client.post(URL, json=CALL, headers=await api.bearer(scopes=["setup"]))
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")


async def test_a_body_is_not_read_for_who_has_no_key(api: Any) -> None:
    async def body() -> Any:
        pytest.fail("the body was read")
        yield b""

    reply = await api.client.post(URL, content=body())
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")


async def test_another_method_is_refused_naming_the_right_one(api: Any) -> None:
    reply = await api.client.put(URL, headers=await api.bearer())
    assert (reply.status_code, reply.json()["code"], reply.headers["allow"]) == (405, "method_not_allowed", "POST")


def test_the_members_msgspec_knows_are_those_described() -> None:
    from orchestrator.api.schemas import CallRequest

    assert set(call_bodies.MEMBERS) == set(CallRequest.model_fields)


async def test_calls_at_the_same_time_get_their_own_replies(api: Any) -> None:
    api.sessions.echo = True
    bodies = [json.dumps({**CALL, "args": [number]}).encode() for number in range(50)]
    replies = await asyncio.gather(*(post(api, body) for body in bodies))
    assert [reply.json()["args"] for reply in replies] == [[number] for number in range(50)]
