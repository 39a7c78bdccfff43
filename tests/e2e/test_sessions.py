"""Sessions: each its own sandbox, ended by its owner, by idleness or by an operator."""

import json
import time
from typing import Any

import httpx

from tests.servers import running


def end(client: httpx.Client, sessionid: str) -> httpx.Response:
    return client.request("DELETE", "/session", json={"sessionid": sessionid})


def until_code(session: Any, code: str, seconds: float = 120) -> httpx.Response:
    """Call until the reply has this code."""
    by = time.monotonic() + seconds
    while True:
        reply = session.post("math.sqrt", 4)
        if reply.json().get("code") == code or time.monotonic() > by:
            return reply
        time.sleep(0.2)


def test_sessions_share_nothing(server: Any) -> None:
    one, other = server.session(), server.session()
    before = other.value("sys.getrecursionlimit")
    one.value("sys.setrecursionlimit", before + 77)
    assert other.value("sys.getrecursionlimit") == before
    one.close()
    other.close()


def test_each_owner_sees_their_own_and_admins_all(server: Any) -> None:
    mine, theirs = server.session("lister"), server.session("other")
    (listed,) = server.client("lister").get("/session").json()["sessions"]
    assert listed["state"] == "ready"
    refused = server.client("lister").get("/session?all=true")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    everyone = server.client("boss", scopes="admin").get("/session?all=true").json()["sessions"]
    assert listed["id"] in [session["id"] for session in everyone]
    assert len(everyone) >= 2
    mine.close()
    theirs.close()


def test_ending_a_session_is_final_and_may_be_done_twice(server: Any) -> None:
    session = server.session()
    for _ in range(2):
        reply = end(session.client, session.id)
        assert (reply.status_code, reply.json()) == (200, {"error": False})
    reply = session.post("math.sqrt", 4)
    assert (reply.status_code, reply.json()["code"]) == (404, "session_not_found")
    listed = json.dumps(session.client.get("/session").json())
    assert '"closing"' not in listed or '"closed"' not in listed


def test_nobody_ends_or_calls_anothers_session(server: Any) -> None:
    session = server.session("ada")
    eve = server.client("eve")
    assert end(eve, session.id).status_code == 404
    body = {"sessionid": session.id, "namepath": "math.sqrt", "args": [4]}
    reply = eve.post("/environment/python/call", json=body)
    assert (reply.status_code, reply.json()["code"]) == (404, "session_not_found")
    unknown = eve.post("/environment/python/call", json={**body, "sessionid": "nonsense"})
    assert (unknown.status_code, unknown.json()["detail"]) == (404, reply.json()["detail"])
    assert session.value("math.sqrt", 4) == 2.0
    session.close()


def test_an_idle_session_expires_by_its_ttl_and_says_so(server: Any) -> None:
    session = server.session("idler", ttl=1)
    until = time.monotonic() + 120
    while session.client.get("/session").json()["sessions"] and time.monotonic() < until:
        time.sleep(0.2)
    reply = session.post("math.sqrt", 4)
    assert (reply.status_code, reply.json()["code"]) == (410, "session_expired")
    assert "idle" in reply.json()["detail"]
    assert end(session.client, session.id).status_code == 200


def test_an_operator_ends_a_session_from_the_command_line(server: Any) -> None:
    session = server.session("stopped")
    (listed,) = session.client.get("/session").json()["sessions"]
    server.kodou("sessions", "stop", listed["id"])
    reply = until_code(session, "session_expired")
    assert (reply.status_code, reply.json()["code"]) == (410, "session_expired")


def test_one_owner_cannot_have_any_number_of_sessions(server: Any) -> None:
    limit = 3
    with_limit = {"KODOU_MAX_SESSIONS_PER_OWNER": str(limit)}
    with running(server.backend, **with_limit) as small:
        sessions = [small.session() for _ in range(limit)]
        reply = small.client().post("/environment/python/setup", json={})
        assert (reply.status_code, reply.json()["code"]) == (429, "rate_limited")
        assert int(reply.headers["retry-after"]) >= 1
        sessions[0].close()
        small.session()
        assert small.session("bob").value("math.sqrt", 4) == 2.0


def test_a_server_ends_in_order_and_takes_its_sandboxes_along(server: Any) -> None:
    with running(server.backend) as short:
        session = short.session()
        assert session.value("math.sqrt", 4) == 2.0
        code = short.stop()
        log = short.log.read_text()
        assert code == 0
        assert not (short.data_dir / "server.json").exists()
        assert "Traceback" not in log
