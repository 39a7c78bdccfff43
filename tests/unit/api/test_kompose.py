"""`POST /kompose` as a client meets it: who may, what is refused, and what goes to which runner."""

import json
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from runner import frames

from orchestrator.auth.keys import Credentials
from orchestrator.composition.plan import plan
from orchestrator.errors import RateLimited, SessionExpired, SessionNotFound
from orchestrator.records import Resources
from orchestrator.sandboxes.content import Whole
from orchestrator.sandboxes.events import Event
from orchestrator.sandboxes.replies import Raised, RefusedCall, TimedOut, Typed, Value, Violation
from orchestrator.sessions.manager import SessionOptions

pytestmark = pytest.mark.anyio

BODY = {"args": [[1, 4]], "pipeline": ["sum", "math.sqrt"]}
OPTIONS = SessionOptions(Resources(512, 1.0, 128, 256), "none", {}, 3600)


@dataclass
class Held:
    """A key, and a session that it opened."""

    key_id: str
    api_id: str
    session: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_id}"}


async def held(api: Any, owner: str = "ada", scopes: tuple[str, ...] = ("setup", "call"), **key: Any) -> Held:
    new = await api.keys.create(owner, scopes=scopes, **key)
    principal = await api.keys.authenticate(Credentials(token=new.api_id))
    opened = await api.sessions.open(principal, api.environment, None, OPTIONS)
    return Held(new.key.id, new.api_id, opened.sessionid)


async def post(
    api: Any, body: object = BODY, jwt: str | None = None, headers: dict[str, str] | None = None
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await api.client.post(
        "/kompose", params=None if jwt is None else {"jwt": jwt}, content=content, headers=headers
    )


# --- who ---


async def test_a_session_id_is_credential_and_session_in_one(api: Any) -> None:
    ada = await held(api)
    reply = await post(api, jwt=ada.session)
    assert (reply.status_code, reply.json()) == (200, {"error": False, "value": 12})
    (call,) = api.sessions.calls
    assert (call["sessionid"], call["owner"]) == (ada.session, "ada")


async def test_an_api_id_goes_in_the_query_too_and_the_body_names_the_session(api: Any) -> None:
    ada = await held(api)
    for jwt, headers in (
        (ada.api_id, None),
        (None, ada.bearer),
        (ada.api_id, ada.bearer),
        (None, {"X-Consumer-Custom-ID": ada.api_id}),
    ):
        reply = await post(api, {**BODY, "session": ada.session}, jwt, headers)
        assert reply.status_code == 200
    assert {call["sessionid"] for call in api.sessions.calls} == {ada.session}


async def test_the_session_is_named_in_the_body_the_query_or_the_header_and_the_same_in_all_of_them(api: Any) -> None:
    ada, other = await held(api), await held(api)
    header = {**ada.bearer, "X-Session-ID": ada.session}
    for body, jwt in (
        ({**BODY, "session": ada.session}, ada.session),
        ({**BODY, "session": ""}, None),
        (BODY, ada.session),
        (BODY, None),
    ):
        assert (await post(api, body, jwt, header)).status_code == 200
    assert [call["sessionid"] for call in api.sessions.calls] == [ada.session] * 4
    for body, jwt in (({**BODY, "session": other.session}, None), (BODY, other.session)):
        refused = await post(api, body, jwt, header)
        assert (refused.status_code, refused.json()["field"]) == (422, "session")
    refused = await post(api, {**BODY, "session": other.session}, ada.session)
    assert (refused.status_code, refused.json()["field"]) == (422, "session")
    named = [{"session": other.session, "pipeline": ["sum"]}]  # by each pipe itself
    assert (await post(api, {"pipes": named}, ada.session)).status_code == 200
    assert len(api.sessions.calls) == 5


async def test_a_key_that_was_revoked_is_none_for_its_sessions_either_at_once(api: Any) -> None:
    ada = await held(api)
    assert (await post(api, jwt=ada.session)).status_code == 200
    await api.keys.revoke(ada.key_id)
    reply = await post(api, jwt=ada.session)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")


async def test_a_key_that_has_expired_is_none_for_its_sessions_either(api: Any) -> None:
    ada = await held(api)
    session = api.sessions.opened[0]
    expired = await api.keys.create("ada", scopes=("call",), expires_in=timedelta(milliseconds=1))
    api.sessions.opened[0] = replace(session, key_id=expired.key.id)
    while datetime.now(UTC) <= expired.key.expires_at:
        pass
    reply = await post(api, jwt=ada.session)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
    api.sessions.opened[0] = replace(session, key_id="f" * 32)
    assert (await post(api, jwt=ada.session)).status_code == 401


async def test_a_key_needs_the_scope_whatever_it_is_shown_by(api: Any) -> None:
    ada = await held(api, scopes=("setup",))
    for jwt, headers in ((ada.session, None), (ada.api_id, None), (None, ada.bearer)):
        reply = await post(api, {**BODY, "session": ada.session}, jwt, headers)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert not api.sessions.calls


@pytest.mark.parametrize("jwt", ["", "garbage", "a.b.c", None])
async def test_who_shows_nothing_good_is_refused_and_the_body_not_read(api: Any, jwt: str | None) -> None:
    reply = await post(api, b"no JSON", jwt)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"]


async def test_wrong_credentials_count_as_failures(make_api: Any) -> None:
    api = await make_api(failures_per_s=0.001, burst_failures=3)
    assert [(await post(api, jwt="garbage")).status_code for _ in range(4)] == [401, 401, 401, 429]


async def test_the_limits_of_the_key_hold_for_its_sessions(make_api: Any) -> None:
    api = await make_api(requests_per_s=0.001, burst_requests=2)
    ada = await held(api)
    assert [(await post(api, jwt=ada.session)).status_code for _ in range(3)] == [200, 200, 429]
    assert (await post(api, {**BODY, "session": ada.session}, ada.api_id)).status_code == 429


async def test_two_keys_in_one_request_are_refused(api: Any) -> None:
    ada, bob = await held(api), await held(api, "bob")
    reply = await post(api, {**BODY, "session": ada.session}, ada.api_id, bob.bearer)
    assert (reply.status_code, reply.json()["code"], reply.json()["field"]) == (422, "invalid_request", "query.jwt")


@pytest.mark.parametrize("query", ["token=x", "jwt=x&jwt=x", "jwt=x&JWT=x"])
async def test_queries_that_are_not_known_or_there_twice_are_refused(api: Any, query: str) -> None:
    reply = await api.client.post(f"/kompose?{query}", json=BODY)
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_request")
    assert reply.json()["field"].startswith("query.")


async def test_another_owner_s_session_is_forbidden_wherever_it_is_named_and_nothing_runs(api: Any) -> None:
    ada, bob = await held(api), await held(api, "bob")
    stage = ["sum"]
    cases: list[tuple[dict[str, Any], str, int | None]] = [
        ({"session": bob.session, "pipeline": stage}, ada.api_id, None),
        ({"pipes": [{"pipeline": stage}, {"session": bob.session, "pipeline": stage}]}, ada.session, 1),
        ({"pipes": [{}, {"session": bob.session, "pipeline": stage}, {"pipeline": stage}]}, ada.session, 1),
    ]
    for body, jwt, pipe in cases:
        reply = await post(api, body, jwt)
        assert (reply.status_code, reply.json()["code"], reply.json().get("pipe")) == (403, "forbidden", pipe)
    reply = await post(api, BODY, bob.session, ada.bearer)
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert not api.sessions.calls


async def test_a_session_that_is_unknown_or_over_is_told_as_for_calls_with_its_pipe(api: Any) -> None:
    ada = await held(api)
    now = datetime.now(UTC)
    over = replace(api.sessions.opened[0], created_at=now, expires_at=now - timedelta(hours=1))
    for sessionid, status, code in (
        ("unknown", 404, "session_not_found"),
        (api.tokens.session_id(over), 410, "session_expired"),
        (ada.api_id, 404, "session_not_found"),
    ):
        pipes = [{"pipeline": ["sum"]}, {"session": sessionid, "pipeline": ["sum"]}]
        reply = await post(api, {"pipes": pipes}, ada.session)
        assert (reply.status_code, reply.json()["code"], reply.json()["pipe"]) == (status, code, 1)
    assert (await post(api, jwt=api.tokens.session_id(over))).status_code == 410
    assert not api.sessions.calls


# --- what goes to the runner ---


async def test_one_session_s_composition_goes_to_its_runner_as_it_came_but_for_the_session_id(api: Any) -> None:
    ada = await held(api)
    body = b'{"pipeline": [ "sum"],\n "args":[[4.0e0, NaN]], "session": "%s"}' % ada.session.encode()
    await post(api, body, headers={**ada.bearer, "Accept": "text/csv, application/json;q=0.5"})
    (work,) = api.sessions.work
    assert (work.kind, work.forms) == (frames.COMPOSE, ("csv", "json"))
    assert work.body == body.replace(ada.session.encode(), b"")


async def test_no_token_reaches_a_sandbox(api: Any) -> None:
    ada = await held(api)
    pipes = [{"session": ada.session, "pipeline": ["sum"]}, {"pipeline": ["abs"]}]
    api.sessions.reply = Value(b'{"error": false, "value": 1}')
    await post(api, {"pipes": pipes, "session": ada.session}, ada.api_id)
    assert len(api.sessions.work) == 2
    assert not any(token.encode() in work.body for work in api.sessions.work for token in (ada.session, ada.api_id))


async def test_each_pipe_goes_to_its_session_and_the_value_between_in_typed_form(api: Any) -> None:
    ada, other = await held(api), await held(api)
    api.sessions.reply = Value(b'{"error":false,"value":{"a":1e2}}')
    pipes = [{"pipeline": ["sum"]}, {}, {"session": other.session, "pipeline": ["abs", "len"]}]
    reply = await post(api, {"args": [[1]], "pipes": pipes, "timeout": 500}, ada.session)
    assert reply.json() == {"error": False, "value": {"a": 100.0}, "ms": 0.0}
    assert [call["sessionid"] for call in api.sessions.calls] == [ada.session, other.session]
    assert [work.forms for work in api.sessions.work] == [("typed",), ()]
    assert api.sessions.work[0].body == b'{"args":[[1]],"pipeline":["sum"]}'
    assert api.sessions.work[1].body == b'{"pipeline":["abs","len"],"piped":{"a":1e2}}'
    assert [call["timeout_s"] <= 0.5 for call in api.sessions.calls] == [True, True]


async def test_files_go_with_the_composition_that_names_them(api: Any) -> None:
    ada = await held(api)
    call = json.dumps({"args": [{"$file": "data"}], "pipes": [{"pipeline": ["len"]}]})
    files = {"call": (None, call), "data": ("x.bin", b"\x00\x01")}
    reply = await api.client.post("/kompose", params={"jwt": ada.session}, files=files)
    assert reply.status_code == 200, reply.text
    (work,) = api.sessions.work
    assert [(file.name, file.source) for file in work.files] == [("data", b"\x00\x01")]


async def test_files_between_sessions_count_for_the_owner_as_those_of_the_request_do(make_api: Any) -> None:
    api = await make_api(max_upload_bytes=4_000_000, max_spooled_bytes_per_owner=4_000_000)
    ada, other = await held(api), await held(api)
    content = b"x" * 2_500_000
    api.sessions.reply = Typed(b'{"error": false, "value": {"$file": "f0"}}', (("f0", len(content)),), Whole(content))
    pipes = [{"pipeline": ["bytes"]}, {"session": other.session, "pipeline": ["len"]}]
    files = {"call": (None, json.dumps({"args": [{"$file": "data"}], "pipes": pipes})), "data": ("x.bin", content)}
    reply = await api.client.post("/kompose", params={"jwt": ada.session}, files=files)
    assert (reply.status_code, reply.json()["code"]) == (503, "spool_full"), reply.text


async def test_a_file_that_nothing_names_is_refused(api: Any) -> None:
    ada = await held(api)
    files = {"call": (None, json.dumps({"pipes": [{"pipeline": ["len"]}]})), "data": ("x.bin", b"\x00\x01")}
    reply = await api.client.post("/kompose", params={"jwt": ada.session}, files=files)
    assert (reply.status_code, reply.json()["code"], reply.json()["field"]) == (422, "invalid_request", "data")


async def test_a_file_that_is_not_there_is_refused_before_any_part_runs(api: Any) -> None:
    ada = await held(api)
    pipes = [{"pipeline": ["int"]}, {"pipeline": ["str", [{"name": "max", "args": [{"$file": "absent"}]}]]}]
    reply = await api.client.post("/kompose", params={"jwt": ada.session}, json={"pipes": pipes})
    told = {name: reply.json().get(name) for name in ("code", "field", "pipe", "stage")}
    field = "pipes[1].pipeline[1][0].args[0]"
    assert (reply.status_code, told) == (422, {"code": "invalid_request", "field": field, "pipe": 1, "stage": 1})
    assert not api.sessions.work


# --- what is refused ---


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, None),
        (b'{"pipeline": ["x"]', 400, None),
        (b'{"pipeline": ["x"], "args": ["\xff"]}', 400, None),
        (b"[]", 422, None),
        (b"{}", 422, "pipeline"),
        (b'{"pipeline": ["x"], "pipes": [{"pipeline": ["x"]}]}', 422, "pipes"),
        (b'{"pipeline": ["x"], "listop": {}}', 422, "listop"),
        (b'{"pipeline": ["x"], "piped": 1}', 422, "piped"),
        (b'{"pipeline": ["x"], "sessionid": "s"}', 422, "sessionid"),
        (b'{"pipeline": ["x"], "argz": []}', 422, "argz"),
        (b'{"pipeline": ["x"], "session": 7}', 422, "session"),
        (b'{"pipeline": ["x"], "timeout": true}', 422, "timeout"),
        (b'{"pipeline": ["x"], "timeout": "1e3"}', 422, "timeout"),
        (b'{"pipes": [{"pipeline": ["x"]}], "args": [1], "args": [2]}', 422, "args"),
        (b'{"pipes": [{"pipeline": ["x"]}], "args": ["\\ud800"]}', 422, None),
        (b'{"pipes": [{}]}', 422, "pipes"),
        (b'{"pipes": [{"pipeline": ["x"], "argz": 1}]}', 422, "pipes[0].argz"),
        (b'{"args": [[1]], "pipeline": [{"op": "map", "function": "abs", "parallel": 9}]}', 422, "pipeline[0].parallel"),
        (b'{"args": [[1]], "pipeline": [{"op": "sort", "parallel": 2}]}', 422, "pipeline[0].parallel"),
        (b'{"pipeline": %s}' % (b"[" * 1000), 422, None),
    ],
)  # fmt: skip
async def test_a_body_that_is_no_composition_is_refused_saying_where(
    api: Any, body: bytes, status: int, field: str | None
) -> None:
    ada = await held(api)
    reply = await post(api, body, ada.session)
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem.get("field")) == (status, "invalid_request", field)
    assert problem["detail"]
    assert not api.sessions.calls


async def test_a_session_has_to_be_named(api: Any) -> None:
    ada = await held(api)
    for body in (BODY, {"pipes": [{"session": ada.session, "pipeline": ["x"]}, {"pipeline": ["x"]}]}):
        reply = await post(api, body, ada.api_id)
        assert (reply.status_code, reply.json()["field"]) == (422, "session")
    assert (await post(api, {"pipes": [{"session": ada.session, "pipeline": ["x"]}]}, ada.api_id)).status_code == 200


async def test_more_sandboxes_than_the_server_allows_are_refused(make_api: Any) -> None:
    api = await make_api(max_parallel=2)
    ada = await held(api)
    listop = {"op": "map", "function": "abs", "list": [1, 2, 3], "parallel": 3}
    reply = await post(api, {"listop": listop}, ada.session)
    assert (reply.status_code, reply.json()["field"]) == (422, "listop.parallel")
    assert "2" in reply.json()["detail"]


async def test_a_composition_of_too_many_stages_or_values_is_refused(make_api: Any) -> None:
    api = await make_api(max_stages=3, max_composed_values=1000)
    ada = await held(api)
    reply = await post(api, {"pipes": [{"pipeline": ["x", "x", "x"]}]}, ada.session)
    assert (reply.status_code, reply.json()["field"]) == (422, "pipes")
    for args, status in (([1] * 1000, 413), (["[,:{" * 1000] * 100, 200)):
        reply = await post(api, {"args": [args], "pipes": [{"pipeline": ["x"]}]}, ada.session)
        assert reply.status_code == status, reply.text
    assert len(api.sessions.calls) == 1
    # One session's goes to its runner, whatever there is in it.
    reply = await post(api, {"args": [[1] * 1000], "pipeline": ["x"] * 4}, ada.session)
    assert reply.status_code == 200


@pytest.mark.parametrize(("size", "aside"), [(10, False), (40_000, True)])
async def test_a_large_body_is_read_and_cut_in_a_thread(
    api: Any, monkeypatch: pytest.MonkeyPatch, size: int, aside: bool
) -> None:
    there = []

    def noted(*args: Any, **options: Any) -> Any:
        there.append(threading.get_ident())
        return plan(*args, **options)

    monkeypatch.setattr("orchestrator.api.kompose.plan", noted)
    ada = await held(api)
    await post(api, {"args": ["x" * size], "pipes": [{"pipeline": ["x"]}]}, ada.session)
    assert [each != threading.get_ident() for each in there] == [aside]


SPREAD = {"listop": {"op": "map", "function": "abs", "list": [1, 2], "parallel": 2}}


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("scopes", [("call",), ("call", "egress")])
async def test_a_list_operation_is_spread_over_sandboxes_with_egress_by_those_who_may_have_it(
    make_api: Any, allowed: bool, scopes: tuple[str, ...]
) -> None:
    api = await make_api(allow_egress=allowed)
    await api.store.add(api.environment)
    ada = await held(api, scopes=scopes)
    api.sessions.reply = Value(b'{"error": false, "value": [1]}')
    assert (await post(api, SPREAD, ada.session)).status_code == 200  # without egress, `call` is enough
    calls = len(api.sessions.calls)
    api.sessions.opened[0] = replace(api.sessions.opened[0], network="egress")
    reply = await post(api, SPREAD, ada.session)
    if allowed and "egress" in scopes:
        assert reply.status_code == 200
    else:
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
        assert len(api.sessions.calls) == calls


async def test_protocol_buffers_are_no_body_of_a_composition(api: Any) -> None:
    ada = await held(api)
    reply = await post(api, b"", ada.session, {"Content-Type": "application/x-protobuf"})
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")


async def test_another_method_is_refused_naming_the_right_one(api: Any) -> None:
    reply = await api.client.get("/kompose")
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


# --- what it comes to ---

PIPES = {"pipes": [{"pipeline": ["sum"]}, {"pipeline": ["sum"]}]}


@pytest.mark.parametrize(
    ("told", "status", "members"),
    [
        (Raised(b'{"error": true, "code": "exception", "stage": 0}'), 200, {"code": "exception", "pipe": 0, "stage": 0}),
        (TimedOut(), 200, {"code": "timeout", "pipe": 0, "stage": 0, "restarted": True}),
        (RefusedCall("name_not_found", "no", "pipeline[0][0]", 0), 422, {"pipe": 0, "field": "pipes[0].pipeline[0][0]"}),
        (Violation("garbage"), 503, {"code": "sandbox_lost", "pipe": 0, "restarted": True}),
        (RateLimited("wait", after_s=1), 429, {"code": "rate_limited", "pipe": 0}),
        (SessionExpired("idle"), 410, {"code": "session_expired", "pipe": 0}),
        (SessionNotFound("closed"), 404, {"code": "session_not_found", "pipe": 0}),
    ],
)  # fmt: skip
async def test_a_part_that_fails_is_named(api: Any, told: Any, status: int, members: dict[str, Any]) -> None:
    ada = await held(api)
    api.sessions.reply = told
    reply = await post(api, PIPES, ada.session)
    assert reply.status_code == status
    assert reply.json().items() >= members.items()
    assert len(api.sessions.calls) == 1


async def test_one_session_alone_streams_what_it_tells(api: Any) -> None:
    ada = await held(api)
    api.sessions.told = [Event("output", b'{"stdout": "a"}')]
    for body in (BODY, {"pipes": [{"pipeline": ["sum"]}]}):
        reply = await post(api, body, ada.session, {"Accept": "text/event-stream"})
        assert [line for line in reply.text.splitlines() if line.startswith("event")] == [
            "event: output",
            "event: result",
        ]
        assert api.sessions.work[-1].flags & frames.STREAM


async def test_where_there_are_several_parts_each_tells_its_place(api: Any) -> None:
    ada = await held(api)
    api.sessions.told = [Event("output", b'{"stdout": "a"}')]
    reply = await post(api, PIPES, ada.session, {"Accept": "text/event-stream"})
    assert reply.text.splitlines()[:6] == [
        "event: output",
        'data: {"pipe":0,"stage":0,"stdout": "a"}',
        "",
        "event: output",
        'data: {"pipe":1,"stage":0,"stdout": "a"}',
        "",
    ]
    assert [line for line in reply.text.splitlines() if line.startswith("event")][2:] == ["event: result"]


async def test_the_receipts_are_those_of_all_parts(api: Any) -> None:
    ada = await held(api)
    reply = await post(api, PIPES, ada.session)
    assert reply.headers["kodou-cold"] == "none"
    assert "queue;dur=2.000, run;dur=4.000" in reply.headers["server-timing"]


def test_the_members_msgspec_knows_are_those_described() -> None:
    from orchestrator.api.kompose_bodies import MEMBERS
    from orchestrator.api.kompose_schemas import KomposeRequest

    assert set(MEMBERS) == set(KomposeRequest.model_fields)
