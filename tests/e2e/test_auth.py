"""Who may do what: keys, scopes, and token kinds that are never taken for one another."""

import base64
import json
import time
from typing import Any

import jwt
import pytest

SETUP = "/environment/python/setup"
CALL = "/environment/python/call"


def unauthorized(reply: Any) -> bool:
    return (reply.status_code, reply.json()["code"]) == (401, "unauthorized") and "www-authenticate" in reply.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", SETUP), ("POST", CALL), ("GET", "/session"), ("DELETE", "/session"), ("GET", "/environment/python"),
     ("GET", "/environment/python/x"), ("GET", f"{SETUP}/x")],
)  # fmt: skip
def test_nothing_is_done_without_a_key(server: Any, method: str, path: str) -> None:
    assert unauthorized(server.bearing().request(method, path, content=b"{"))
    assert unauthorized(server.bearing("nonsense").request(method, path, content=b"{"))


def test_health_and_docs_need_none(server: Any) -> None:
    client = server.bearing()
    for path in ("/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200, path


def test_a_revoked_key_ends_at_once_in_a_running_server(server: Any) -> None:
    key = server.key("revoked")
    session = server.session("revoked")
    assert session.value("math.sqrt", 4) == 2.0
    server.kodou("keys", "revoke", key["id"])
    assert unauthorized(session.post("math.sqrt", 4))
    assert unauthorized(session.client.post(SETUP, json={}))


def test_a_key_made_on_the_command_line_works_at_once(server: Any) -> None:
    key = json.loads(server.kodou("keys", "create", "typed", "--json", "--scopes", "call"))
    client = server.bearing(key["api_id"])
    assert client.get("/session").status_code == 200
    assert client.post(SETUP, json={}).json()["code"] == "forbidden"


def test_an_expired_key_is_refused(server: Any) -> None:
    for lasts_s in (4, 30, 120):  # a busy machine may not get round to showing it before it has expired
        client = server.client(f"brief-{lasts_s}", expires_s=lasts_s)
        reply = client.get("/session")
        if reply.status_code == 200:
            break
    assert reply.status_code == 200
    until = time.monotonic() + lasts_s + 60
    while (reply := client.get("/session")).status_code == 200 and time.monotonic() < until:
        time.sleep(0.2)
    assert unauthorized(reply)


def test_a_session_id_is_no_api_id_and_an_api_id_no_session_id(server: Any, session: Any) -> None:
    assert unauthorized(server.bearing(session.id).get("/session"))
    api_id = server.key("shared")["api_id"]
    reply = session.client.post(CALL, json={"sessionid": api_id, "namepath": "math.pi"})
    assert (reply.status_code, reply.json()["code"]) == (404, "session_not_found")


def test_a_token_that_was_tampered_with_is_refused(server: Any) -> None:
    token = server.key("ada")["api_id"]
    head, claims, signature = token.split(".")
    payload = jwt.decode(token, options={"verify_signature": False})
    other = jwt.encode({**payload, "sub": "eve"}, "x" * 32, algorithm="HS256", headers=jwt.get_unverified_header(token))
    unsigned = jwt.encode(payload, None, algorithm="none")  # type: ignore[arg-type]
    bare = base64.urlsafe_b64encode(json.dumps({"alg": "none", "typ": "JWT"}).encode()).rstrip(b"=").decode()
    for forged in (
        other,
        unsigned,
        f"{bare}.{claims}.",
        f"{head}.{claims}.",
        f"{head}.{claims}.{signature[:-2]}",
        token * 40,
    ):
        assert unauthorized(server.bearing(forged).get("/session"))


def test_scopes_are_kept_apart(server: Any, session: Any) -> None:
    caller, setter = server.client("shared", scopes="call"), server.client("shared", scopes="setup")
    body = {"sessionid": session.id, "namepath": "math.sqrt", "args": [4]}
    assert caller.post(CALL, json=body).json()["value"] == 2.0
    assert setter.post(CALL, json=body).json()["code"] == "forbidden"
    assert caller.post(SETUP, json={}).json()["code"] == "forbidden"


def test_basic_takes_a_keys_id_and_its_secret_only(server: Any) -> None:
    key = server.key("ada")
    client = server.bearing()
    assert client.get("/session", auth=(key["key"], key["secret"])).status_code == 200
    for pair in (
        (key["key"], "wrong"),
        ("0" * 32, key["secret"]),
        (key["secret"], key["key"]),
        (key["key"], key["api_id"]),
    ):
        assert unauthorized(client.get("/session", auth=pair))
