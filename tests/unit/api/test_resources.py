"""Sessions, health, docs, and the app's own life."""

import json
import re
from typing import Any

import anyio
import pytest

from orchestrator.errors import EngineUnavailable

pytestmark = pytest.mark.anyio

SETUP = "/environment/python/setup"


async def opened(api: Any, owner: str, **body: object) -> str:
    reply = await api.client.post(SETUP, json=body, headers=await api.bearer(owner))
    return str(reply.json()["sessionid"])


# --- sessions ---


async def test_the_list_holds_the_callers_sessions_and_no_secret(api: Any) -> None:
    await opened(api, "ada", env={"TOKEN": "s3cret"}, ttl=60)
    await opened(api, "bob")
    reply = await api.client.get("/session", headers=await api.bearer("ada"))
    assert reply.json() == {
        "error": False,
        "sessions": [
            {
                "id": "0" * 32,
                "environment": api.environment.id,
                "state": "ready",
                "reason": "opened",
                "since": "2030-01-01T12:00:00Z",
                "created": "2030-01-01T12:00:00Z",
                "last_used": "2030-01-01T12:00:00Z",
                "expires": "2030-01-01T13:00:00Z",
                "ttl": 60,
                "resources": {"memory_mb": 512, "cpus": 1.0, "pids": 128, "disk_mb": 256},
                "network": "none",
            }
        ],
    }
    assert "s3cret" not in reply.text


async def test_all_sessions_are_for_admins_only(api: Any) -> None:
    await opened(api, "ada")
    refused = await api.client.get("/session?all=true", headers=await api.bearer("bob"))
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    seen = await api.client.get("/session?all=true", headers=await api.bearer("root", ["admin"]))
    assert len(seen.json()["sessions"]) == 1


@pytest.mark.parametrize("where", ["body", "header"])
async def test_a_session_is_ended_by_body_or_header_as_often_as_wished(api: Any, where: str) -> None:
    sessionid = await opened(api, "ada")
    headers = await api.bearer("ada")
    for _ in range(2):
        if where == "body":
            reply = await api.client.request("DELETE", "/session", json={"sessionid": sessionid}, headers=headers)
        else:
            reply = await api.client.delete("/session", headers={**headers, "X-Session-ID": sessionid})
        assert (reply.status_code, reply.json()) == (200, {"error": False})
    assert api.sessions.closed == [sessionid, sessionid]


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "invalid_request"),
        (b"{}", 422, "invalid_request"),
        (b'{"session": "x"}', 422, "invalid_request"),
        (b'{"sessionid": 1}', 422, "invalid_request"),
        (b"{", 400, "invalid_request"),
        (b'{"sessionid": "unknown"}', 404, "session_not_found"),
    ],
)
async def test_ending_what_is_no_session_is_refused(api: Any, content: bytes, status: int, code: str) -> None:
    reply = await api.client.request("DELETE", "/session", content=content, headers=await api.bearer())
    assert (reply.status_code, reply.json()["code"]) == (status, code)


async def test_ending_two_sessions_at_once_is_refused(api: Any) -> None:
    sessionid = await opened(api, "ada")
    headers = {**await api.bearer("ada"), "X-Session-ID": "another"}
    reply = await api.client.request("DELETE", "/session", json={"sessionid": sessionid}, headers=headers)
    assert (reply.status_code, reply.json()["field"]) == (422, "sessionid")
    assert not api.sessions.closed


# --- health ---


async def test_alive_needs_nothing(api: Any) -> None:
    api.backend.broken = EngineUnavailable("gone")
    assert (await api.client.get("/healthz")).json() == {"error": False, "status": "ok"}


async def test_ready_tells_what_was_checked(api: Any) -> None:
    reply = await api.client.get("/readyz")
    assert reply.status_code == 200
    assert reply.json()["checks"] == {"store": "ok", "engine": "ok", "interpreters": "ok"}


async def test_not_ready_names_what_is_not(api: Any) -> None:
    api.backend.broken = EngineUnavailable("the engine does not answer")
    api.backend.images.prepared = False
    reply = await api.client.get("/readyz")
    assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")
    assert reply.headers["retry-after"]
    assert reply.json()["checks"] == {
        "store": "ok",
        "engine": "the engine does not answer",
        "interpreters": "being prepared",
    }


async def test_many_probes_ask_the_engine_once(api: Any) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(api.client.get, "/readyz")
    assert api.backend.asked == 1


async def test_metrics_are_told(api: Any) -> None:
    reply = await api.client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    assert "kodou_images 1.0" in reply.text
    assert "kodou_image_bytes 1234.0" in reply.text


async def test_metrics_may_be_for_admins_only(make_api: Any) -> None:
    api = await make_api(metrics_public=False)
    assert (await api.client.get("/metrics")).status_code == 401
    assert (await api.client.get("/metrics", headers=await api.bearer())).status_code == 403
    assert (await api.client.get("/metrics", headers=await api.bearer("root", ["admin"]))).status_code == 200


# --- docs ---

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "init.js": "text/javascript"}
FOREIGN = re.compile(r"""(?:src|href)=["']?(?!data:)(?:[a-z]+:)?//|url\(["']?(?!data:)[a-z]+:|@import""", re.IGNORECASE)


async def test_the_page_loads_from_this_server_alone(api: Any) -> None:
    page = await api.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "script-src" not in page.headers["content-security-policy"]  # so it is 'self', without 'unsafe-inline'
    assert not re.search(r"<script(?![^>]*\bsrc=)", page.text)
    assert set(re.findall(r'(?:src|href)="(?!data:)([^"]*)"', page.text)) == {f"docs/assets/{name}" for name in ASSETS}
    for name in ("init.js", "swagger-ui.css"):
        assert not FOREIGN.search((await api.client.get(f"/docs/assets/{name}")).text)


@pytest.mark.parametrize(("name", "media_type"), ASSETS.items())
async def test_assets_have_the_type_that_a_browser_insists_on(api: Any, name: str, media_type: str) -> None:
    reply = await api.client.get(f"/docs/assets/{name}")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith(media_type)
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["../../core.py", "%2e%2e%2fcore.py", "redoc.standalone.js", "nothing.js"])
async def test_no_other_file_is_served(api: Any, name: str) -> None:
    assert (await api.client.get(f"/docs/assets/{name}")).status_code == 404


async def test_the_root_leads_to_the_docs(api: Any) -> None:
    reply = await api.client.get("/")
    assert reply.is_redirect
    assert (await api.client.get(reply.headers["location"])).status_code == 200


async def test_the_description_is_complete(api: Any) -> None:
    document = (await api.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/environment/{language}",
        "/environment/{language}/call",
        "/environment/{language}/describe",
        "/environment/{language}/setup",
        "/environment/{language}/setup/{operation}",
        "/environment/{language}/{id}",
        "/kompose",
        "/session",
        "/session/references",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    assert set(document["components"]["securitySchemes"]) == {"bearer", "basic", "consumer"}
    known = document["components"]["schemas"].keys()
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))) <= known
    assert not known & {"HTTPValidationError", "ValidationError"}
    operations = [each for path in document["paths"].values() for each in path.values()]
    assert len({each["operationId"] for each in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        for status, response in operation["responses"].items():
            if status >= "4":
                assert list(response["content"]) == ["application/problem+json"]


async def test_bodies_in_the_description_are_those_that_are_read(api: Any) -> None:
    document = (await api.client.get("/openapi.json")).json()

    def body(path: str, method: str) -> str:
        content = document["paths"][path][method]["requestBody"]["content"]
        return str(content["application/json"]["schema"]["$ref"])

    assert body("/environment/{language}/setup", "post").endswith("/SetupBody")
    assert body("/environment/{language}/call", "post").endswith("/CallRequest")
    assert body("/session", "delete").endswith("/CloseBody")
    assert document["components"]["schemas"]["SetupBody"]["additionalProperties"] is False
    assert document["paths"]["/healthz"]["get"]["security"] == []


# --- the app's life ---


async def test_parts_are_started_and_at_the_end_drained(api: Any) -> None:
    async with api.app.router.lifespan_context(api.app):
        assert not api.sessions.drained
    assert api.sessions.drained


async def test_preparing_is_tried_again_after_a_failure(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.preparation._AGAIN_S", 0.001)
    images = api.backend.images
    images.broken, images.prepared = EngineUnavailable("gone"), False
    async with api.app.router.lifespan_context(api.app):
        await anyio.sleep(0.01)
        assert (await api.client.get("/readyz")).status_code == 503
        images.broken, images.prepared = None, True
        reply = await api.client.post(SETUP, json={}, headers=await api.bearer())
    assert reply.status_code == 200
