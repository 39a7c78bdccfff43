"""What every request goes through: ids, limits, errors nobody foresaw, metrics, and who it is from."""

import base64
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from orchestrator import telemetry
from orchestrator.api import middleware
from orchestrator.settings import Settings

pytestmark = pytest.mark.anyio

SETUP = "/environment/python/setup"
CALL = "/environment/python/call"
PROBLEM = "application/problem+json"


@pytest.mark.parametrize("given", ["abc-DEF_1.2", "x" * 128])
async def test_a_sane_request_id_is_kept(api: Any, given: str) -> None:
    assert (await api.client.get("/healthz", headers={"X-Request-ID": given})).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", 'a"b', "ä"])
async def test_any_other_request_id_is_replaced(api: Any, given: str) -> None:
    reply = await api.client.get("/healthz", headers={"X-Request-ID": given.encode()})
    assert reply.headers["x-request-id"] != given
    assert reply.headers["x-request-id"]


async def test_made_request_ids_differ(api: Any) -> None:
    assert len({(await api.client.get("/healthz")).headers["x-request-id"] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/no/such/route", 404, "not_found"),
        ("GET", "/r%0Aoute", 404, "not_found"),
        ("PATCH", "/session", 405, "method_not_allowed"),
        ("DELETE", "/environment/python/call", 405, "method_not_allowed"),
        ("POST", SETUP, 401, "unauthorized"),
        ("POST", "/environment/python/call", 401, "unauthorized"),
        ("GET", "/session", 401, "unauthorized"),
        ("GET", "/environment/python", 401, "unauthorized"),
    ],
)
async def test_every_refusal_is_a_problem(api: Any, method: str, path: str, status: int, code: str) -> None:
    reply = await api.client.request(method, path, headers={"X-Request-ID": "r-1"})
    problem = reply.json()
    assert (reply.status_code, reply.headers["content-type"]) == (status, PROBLEM)
    assert (problem["error"], problem["code"], problem["status"], problem["request_id"]) == (True, code, status, "r-1")
    assert reply.headers["x-request-id"] == "r-1"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/session", "/no/such"])
async def test_head_is_answered_as_get(api: Any, path: str) -> None:
    replies = [await api.client.request(method, path, headers=await api.bearer()) for method in ("GET", "HEAD")]
    own = {"x-request-id", "content-length"}  # metrics count themselves
    get, head = ({name: value for name, value in reply.headers.items() if name not in own} for reply in replies)
    assert (head, replies[1].status_code) == (get, replies[0].status_code)


async def test_head_is_refused_where_there_is_no_get(api: Any) -> None:
    reply = await api.client.head("/environment/python/call", headers=await api.bearer())
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


async def test_head_is_counted_as_what_it_is(api: Any) -> None:
    def counted() -> float:
        labels = {"method": "HEAD", "route": "/docs", "status": "200"}
        return telemetry.REGISTRY.get_sample_value("kodou_http_requests_total", labels) or 0

    before = counted()
    await api.client.head("/docs")
    assert counted() == before + 1


async def test_a_query_parameter_of_the_wrong_kind_is_a_problem_naming_it(api: Any) -> None:
    reply = await api.client.get("/session?all=perhaps", headers=await api.bearer())
    assert (reply.status_code, reply.json()["code"], reply.json()["field"]) == (422, "invalid_request", "query.all")


async def test_what_nobody_foresaw_tells_the_client_an_id_and_the_log_the_rest(
    api: Any, caplog: pytest.LogCaptureFixture
) -> None:
    api.sessions.list = None  # not callable
    reply = await api.client.get("/session", headers={**await api.bearer(), "X-Request-ID": "r-1"})
    assert reply.status_code == 500
    assert reply.json() == {
        "type": "urn:kodou:problem:internal",
        "title": "Internal error",
        "status": 500,
        "error": True,
        "code": "internal",
        "request_id": "r-1",
    }


async def test_the_same_on_the_hot_path(api: Any) -> None:
    api.sessions.call = None
    call = {"sessionid": "s", "namepath": "a"}
    reply = await api.client.post("/environment/python/call", json=call, headers=await api.bearer())
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")


@pytest.mark.parametrize("path", [SETUP, "/environment/python/call"])
@pytest.mark.parametrize("told", [True, False])
async def test_a_body_over_the_limit_is_refused_whether_or_not_its_length_was_told(
    make_api: Any, path: str, told: bool
) -> None:
    api = await make_api(max_body_bytes=2048)
    sent = 0

    async def pieces() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 1000
            yield b" " * 1000

    content = b" " * 2049 if told else pieces()
    reply = await api.client.post(path, content=content, headers=await api.bearer())
    assert (reply.status_code, reply.json()["code"], reply.json()["limit_bytes"]) == (413, "payload_too_large", 2048)
    assert sent <= 3000  # and no more of it was read


async def test_ordinary_endpoints_take_less_than_calls(api: Any) -> None:
    reply = await api.client.post(SETUP, content=b" " * (1024 * 1024 + 1), headers=await api.bearer())
    assert (reply.status_code, reply.json()["limit_bytes"]) == (413, 1024 * 1024)


async def test_metrics_count_by_template_never_by_path(api: Any) -> None:
    def counted(route: str, status: int) -> float:
        labels = {"method": "GET", "route": route, "status": str(status)}
        return telemetry.REGISTRY.get_sample_value("kodou_http_requests_total", labels) or 0.0

    before = counted("/environment/{language}/{id}", 404), counted("unmatched", 404)
    await api.client.get("/environment/python/nonsense", headers=await api.bearer())
    await api.client.get("/nonsense")
    assert (counted("/environment/{language}/{id}", 404), counted("unmatched", 404)) == (before[0] + 1, before[1] + 1)


async def test_a_client_that_leaves_inside_its_body_is_no_error(api: Any) -> None:
    sent: list[Any] = []
    messages: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    shown = {"Host": "kodou", **await api.bearer()}
    headers = [(name.lower().encode(), value.encode()) for name, value in shown.items()]
    for path in (SETUP, "/environment/python/call"):
        messages[:] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        await api.app(scope, receive, send)
    assert not sent


@contextmanager
def logging_as(settings: Settings) -> Iterator[None]:
    """As the server does."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    telemetry.configure_logging(settings.model_copy(update={"log_format": "json"}))
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)


async def test_of_a_crowd_of_refusals_one_a_second_is_logged_for_all(
    make_api: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(middleware, "monotonic", lambda: now[0])
    api = await make_api(default_version="3.12", requests_per_s=0.001, burst_requests=1)
    key = await api.keys.create("ada")
    headers = {"Authorization": f"Bearer {key.api_id}"}
    statuses = []
    with logging_as(api.settings):
        for wait_s in (0.0, 0.0, 0.0, 0.0, middleware.TOLD_S, 0.0):
            now[0] += wait_s
            call = {"sessionid": "s", "namepath": "a"}
            statuses.append((await api.client.post(CALL, json=call, headers=headers)).status_code)
    assert statuses == [200, 429, 429, 429, 429, 429]
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    told = [(line["status"], line["code"], line["key"], line["alike"]) for line in lines if line["event"] == "request"]
    assert told == [(429, "rate_limited", key.key.id, 1), (429, "rate_limited", key.key.id, 3)]


async def test_the_access_log_holds_no_token_and_no_query(api: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with logging_as(api.settings):
        headers = await api.bearer()
        await api.client.get("/docs?secret=s3cret", headers={**headers, "X-Request-ID": "r-77"})
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "r-77" in line]
    assert [(line["path"], line["status"], line["request_id"]) for line in lines] == [("/docs", 200, "r-77")]
    assert "s3cret" not in json.dumps(lines)
    assert headers["Authorization"].split()[1] not in json.dumps(lines)


# --- who it is from ---


def basic(id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{id}:{secret}".encode()).decode()


async def test_all_three_ways_to_show_a_key_work(api: Any) -> None:
    key = await api.keys.create("ada")
    for headers in (
        {"Authorization": f"Bearer {key.api_id}"},
        {"Authorization": f"bearer  {key.api_id}"},
        {"X-Consumer-Custom-ID": key.api_id},
        {"Authorization": basic(key.key.id, key.secret)},
    ):
        assert (await api.client.get("/session", headers=headers)).status_code == 200


async def test_authorization_counts_when_both_are_shown(api: Any) -> None:
    token = await api.token()
    wrong_first = {"Authorization": "Bearer nonsense", "X-Consumer-Custom-ID": token}
    right_first = {"Authorization": f"Bearer {token}", "X-Consumer-Custom-ID": "nonsense"}
    assert (await api.client.get("/session", headers=wrong_first)).status_code == 401
    assert (await api.client.get("/session", headers=right_first)).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer nonsense", "Digest x", "Basic", "Basic !!!", "Basic bm9jb2xvbg==", basic("a", "b"),
     "Basic /w==", b"Bearer \xff", "Bearer " + "x" * 20_000],
)  # fmt: skip
async def test_anything_else_is_unauthorized(api: Any, authorization: str | bytes) -> None:
    reply = await api.client.get("/session", headers={"Authorization": authorization})
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"].startswith("Bearer")


async def test_a_session_id_is_no_api_id(api: Any) -> None:
    headers = await api.bearer()
    sessionid = (await api.client.post(SETUP, json={}, headers=headers)).json()["sessionid"]
    reply = await api.client.get("/session", headers={"Authorization": f"Bearer {sessionid}"})
    assert reply.status_code == 401


async def test_revoking_and_expiring_work_at_once(api: Any) -> None:
    key = await api.keys.create("ada", expires_in=timedelta(hours=1))
    headers = {"Authorization": f"Bearer {key.api_id}"}
    assert (await api.client.get("/session", headers=headers)).status_code == 200
    await api.keys.revoke(key.key.id)
    assert (await api.client.get("/session", headers=headers)).status_code == 401
