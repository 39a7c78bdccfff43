"""`describe` and the list of references: what goes to the runner, and what is refused before."""

import json
from typing import Any

import httpx
import pytest
from runner import frames

from orchestrator.sandboxes.replies import Raised, RefusedCall, TimedOut, Value, Violation

pytestmark = pytest.mark.anyio

DESCRIBE = "/environment/python/describe"
REFERENCES = "/session/references"


async def describe(api: Any, **members: Any) -> httpx.Response:
    body = {"sessionid": "s", **members}
    reply: httpx.Response = await api.client.post(DESCRIBE, json=body, headers=await api.bearer())
    return reply


async def test_what_is_asked_goes_to_the_runner_and_its_answer_comes_back(api: Any) -> None:
    api.sessions.reply = Value(b'{"error":false,"value":{"name":"math","kind":"module","members":[]}}')
    reply = await describe(api, namepath=["math"], prefix="s", private=True, limit=10, after="sa", timeout="500")
    assert reply.status_code == 200
    assert reply.content == api.sessions.reply.body
    assert reply.headers["kodou-cold"] == "none"
    assert reply.headers["server-timing"] == "queue;dur=1.000, run;dur=2.000"
    work = api.sessions.work[-1]
    assert work.kind == frames.DESCRIBE
    assert json.loads(work.body) == {"namepath": ["math"], "prefix": "s", "private": True, "limit": 10, "after": "sa"}
    assert api.sessions.calls[-1]["timeout_s"] == 0.5
    assert api.sessions.calls[-1]["sessionid"] == "s"


async def test_the_session_may_be_named_in_a_header(api: Any) -> None:
    headers = {**await api.bearer(), "X-Session-ID": "h"}
    assert (await api.client.post(DESCRIBE, headers=headers)).status_code == 200
    assert (await api.client.get(REFERENCES, headers=headers)).status_code == 200
    assert [call["sessionid"] for call in api.sessions.calls] == ["h", "h"]
    assert api.sessions.work[-1].kind == frames.REFERENCES


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"prefix": 1}, "prefix"),
        ({"private": "yes"}, "private"),
        ({"limit": -1}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"after": "x" * 1001}, "after"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"timeout": [1]}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": "1" * 21}, "timeout"),
        ({"args": []}, "args"),
        ({"sessionid": None}, "sessionid"),
        ({"sessionid": 1}, "sessionid"),
    ],
)
async def test_what_is_wrong_is_refused_before_the_runner_is_asked(api: Any, members: Any, field: str) -> None:
    reply = await describe(api, **members)
    assert (reply.status_code, reply.json()["code"], reply.json()["field"]) == (422, "invalid_request", field)
    assert not api.sessions.calls


async def test_two_sessions_are_refused(api: Any) -> None:
    headers = {**await api.bearer(), "X-Session-ID": "h"}
    reply = await api.client.post(DESCRIBE, json={"sessionid": "s"}, headers=headers)
    assert (reply.status_code, reply.json()["field"]) == (422, "sessionid")
    assert not api.sessions.calls


async def test_no_session_is_refused(api: Any) -> None:
    reply = await api.client.get(REFERENCES, headers=await api.bearer())
    assert (reply.status_code, reply.json()["field"]) == (422, "sessionid")


@pytest.mark.parametrize(("method", "path"), [("POST", DESCRIBE), ("GET", REFERENCES)])
async def test_a_key_with_the_scope_call_is_needed(api: Any, method: str, path: str) -> None:
    assert (await api.client.request(method, path)).status_code == 401
    assert (await api.client.request(method, path, headers=await api.bearer(scopes=["setup"]))).status_code == 403


async def test_another_language_is_not_found(api: Any) -> None:
    reply = await api.client.post("/environment/cobol/describe", headers=await api.bearer())
    assert reply.status_code == 404


async def test_what_the_runner_refuses_is_a_problem_with_its_place(api: Any) -> None:
    api.sessions.reply = RefusedCall("attribute_not_found", "no such attribute", "namepath[1]")
    reply = await describe(api, namepath="math.x")
    assert (reply.status_code, reply.json()["code"], reply.json()["field"]) == (
        422,
        "attribute_not_found",
        "namepath[1]",
    )


async def test_importing_a_module_may_fail_or_take_too_long(api: Any) -> None:
    api.sessions.reply = Raised(b'{"error":true,"code":"exception","exception":{"type":"E"}}')
    assert (await describe(api, namepath="broken")).json()["code"] == "exception"
    api.sessions.reply = TimedOut()
    reply = await describe(api, namepath="slow")
    assert (reply.status_code, reply.json()["code"], reply.headers["kodou-restarted"]) == (200, "timeout", "true")


async def test_a_sandbox_that_is_lost_is_told(api: Any) -> None:
    api.sessions.reply = Violation("gone")
    assert (await describe(api)).status_code == 503


async def test_a_fresh_sandbox_is_told(api: Any) -> None:
    api.sessions.restarted = True
    reply = await describe(api)
    assert (reply.headers["kodou-cold"], reply.headers["kodou-restarted"]) == ("session", "true")
    assert reply.headers["server-timing"] == "queue;dur=1.000, start;dur=250.000, run;dur=2.000"


async def test_both_are_in_the_api_s_description(api: Any) -> None:
    document = (await api.client.get("/openapi.json")).json()
    operation = document["paths"]["/environment/{language}/describe"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/DescribeBody")
    assert "DescribeBody" in document["components"]["schemas"]
    assert document["paths"][REFERENCES]["get"]["responses"]["200"]
    call = document["paths"]["/environment/{language}/call"]["post"]
    assert "application/x-protobuf" in call["requestBody"]["content"]
    assert "application/x-protobuf" in call["responses"]["200"]["content"]


async def test_describe_is_no_environment(api: Any) -> None:
    reply = await api.client.get(DESCRIBE, headers=await api.bearer())
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
