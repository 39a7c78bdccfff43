"""What the API says of itself, where schemathesis (`tests/fuzz`) once found it wrong."""

from typing import Any

import jsonschema_rs
import pytest

from orchestrator.api.schemas import ResourcesBody, SetupBody
from orchestrator.sandboxes.replies import Value

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/environment/python/call", "/environment/python/setup"])
async def test_what_is_only_posted_to_is_no_environment(api: Any, path: str) -> None:
    reply = await api.client.get(path)
    assert (reply.status_code, reply.json()["code"], reply.headers["allow"]) == (405, "method_not_allowed", "POST")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/session", "DELETE, GET, HEAD"),
        ("/environment/python", "GET, HEAD"),
        ("/environment/python/setup", "POST"),
        ("/environment/python/call", "POST"),
        ("/docs", "GET, HEAD"),
    ],
)
async def test_a_refused_method_is_told_all_that_are_allowed(api: Any, path: str, allowed: str) -> None:
    reply = await api.client.request("PATCH", path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)


async def test_bounds_that_are_settings_are_described(api: Any) -> None:
    schemas = (await api.client.get("/openapi.json")).json()["components"]["schemas"]
    settings = api.settings
    pids, _ = schemas["ResourcesBody"]["properties"]["pids"]["anyOf"]
    assert pids == {"type": "integer", "minimum": 8, "maximum": settings.max_pids}
    setup = schemas["SetupBody"]["properties"]
    assert setup["ttl"]["anyOf"][0]["maximum"] == settings.session_max_ttl_s
    assert setup["dependencies"]["maxItems"] == settings.max_dependencies
    assert setup["network"]["anyOf"][0]["enum"] == ["none"]  # egress is not allowed here


async def test_members_of_a_call_may_be_left_out_and_are_never_null(api: Any) -> None:
    call = (await api.client.get("/openapi.json")).json()["components"]["schemas"]["CallRequest"]
    assert "required" not in call
    assert call["anyOf"] == [{"required": ["namepath"]}, {"required": ["drop"]}]
    assert '"null"' not in str(call).replace("'", '"')


async def test_a_lock_may_be_left_out_and_is_never_null(api: Any) -> None:
    lock = (await api.client.get("/openapi.json")).json()["components"]["schemas"]["SetupBody"]["properties"]["lock"]
    assert lock.keys() == {"$ref", "description"}


async def test_a_setup_s_reply_leads_to_what_can_be_done_with_it(api: Any) -> None:
    paths = (await api.client.get("/openapi.json")).json()["paths"]
    links = paths["/environment/{language}/setup"]["post"]["responses"]["200"]["links"]
    known = {operation["operationId"] for path in paths.values() for operation in path.values()}
    assert {link["operationId"] for link in links.values()} == {"call", "close", "environment"} <= known


# HTTP's own, and what the edge puts on every reply.
UNDESCRIBED = {
    "cache-control", "content-length", "content-security-policy", "content-type", "cross-origin-resource-policy",
    "referrer-policy", "x-content-type-options", "x-frame-options",
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/environment/{language}/setup", {"dependencies": []}, 200),
        ("POST", "/environment/{language}/call", {"namepath": "math.pi"}, 200),
        ("POST", "/environment/{language}/call", {"namepath": "math.pi", "nmae": 1}, 422),
        ("POST", "/environment/{language}/describe", {"namepath": "math"}, 200),
        ("POST", "/environment/{language}/describe", {"limit": -1}, 422),
        ("GET", "/session/references", None, 200),
        ("GET", "/healthz", None, 200),
        ("GET", "/readyz", None, 200),
    ],
)
async def test_a_reply_is_as_it_is_described(api: Any, method: str, path: str, body: Any, status: int) -> None:
    document = (await api.client.get("/openapi.json")).json()
    api.sessions.restarted = True
    api.sessions.reply = Value(b'{"error":false,"value":{"name":"math","kind":"module","members":[]},"ms":0.1}')
    if path == "/session/references":
        api.sessions.reply = Value(b'{"error":false,"value":[],"ms":0.1}')
    headers = {**await api.bearer(), "X-Session-ID": "s"}
    reply = await api.client.request(method, path.format(language="python"), json=body, headers=headers)
    assert reply.status_code == status, reply.text
    described = document["paths"][path][method.lower()]["responses"][str(status)]
    assert {*reply.headers} <= {name.lower() for name in described["headers"]} | UNDESCRIBED
    schema = described["content"][reply.headers["content-type"]]["schema"]
    jsonschema_rs.validate({**schema, "components": document["components"]}, reply.json())
    name = schema["$ref"].rpartition("/")[2]
    assert reply.json().keys() <= document["components"]["schemas"][name]["properties"].keys()


def test_an_integer_may_be_written_with_a_point() -> None:
    assert SetupBody.model_validate({"ttl": 60.0, "resources": {"pids": 64.0}}) == SetupBody(
        ttl=60, resources=ResourcesBody(pids=64)
    )
    for wrong in (60.5, "60", True, float("inf")):
        with pytest.raises(ValueError, match="ttl"):
            SetupBody.model_validate({"ttl": wrong})
