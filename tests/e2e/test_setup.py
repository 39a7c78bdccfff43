"""Protocol section 1: environments and the sessions on them."""

import json
import re
import threading
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

SETUP = "/environment/python/setup"


def events(reply: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in reply.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_an_empty_set_is_the_bare_interpreter(server: Any) -> None:
    session = server.session()
    setup = dict(session.setup)
    assert setup["error"] is False
    assert setup["return"] == {"error": False, "value": session.id}
    assert setup["environment"]["packages"] == {}
    assert setup["environment"]["language"] == "python"
    assert session.value("platform.python_version") == setup["environment"]["version"]
    expires = datetime.strptime(setup["expires"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert expires > datetime.now(UTC)
    session.close()


def test_the_same_set_is_not_built_again(server: Any) -> None:
    first, second = server.session(dependencies=[]), server.session()
    assert second.setup["environment"]["reused"] is True
    assert first.setup["environment"]["id"] == second.setup["environment"]["id"]
    assert first.id != second.id
    first.close()
    second.close()


def test_versions_match_by_their_parts(server: Any) -> None:
    exact = server.client().get("/environment/python").json()["default"]
    major, minor, _ = exact.split(".")
    for version in (major, f"{major}.{minor}", exact):
        session = server.session(version=version)
        assert session.setup["environment"]["version"].startswith(f"{major}.")
        session.close()


@pytest.mark.docker
@pytest.mark.parametrize("server", ["docker"], indirect=True, scope="session")
def test_two_interpreters_are_on_offer_and_each_is_what_it_says(server: Any) -> None:
    offered = server.client().get("/environment/python").json()["versions"]
    assert len({version.rpartition(".")[0] for version in offered}) >= 2
    for version in offered:
        session = server.session(version=version.rpartition(".")[0])
        assert session.setup["environment"]["version"] == version
        assert session.value("platform.python_version") == version
        session.close()


@pytest.mark.parametrize("version", ["2", "2.7", "3.99", "4", "", "3.", "three", "3.12.4.5", ">=3", "03", "٣"])
def test_a_version_not_on_offer_is_refused_with_those_that_are(server: Any, version: str) -> None:
    reply = server.client().post(SETUP, json={"version": version})
    assert (reply.status_code, reply.json()["code"]) == (422, "unknown_version")
    assert reply.json()["offered"] == server.client().get("/environment/python").json()["versions"]


@pytest.mark.parametrize(
    "dependency",
    [
        "./local", "/etc/passwd", "-e .", "-r /etc/passwd", "--index-url=http://x/", "numpy --hash=sha256:00",
        "x @ file:///etc/passwd", "x @ http://169.254.169.254/", "x @ git+ssh://git@example.org/x", "git+https://example.org/x",
        "https://example.org/x.whl", "x\nflask", "x; import os", "a b", "", " ", "x" * 201, "$(id)", "${HOME}", "numpy==",
    ],
)  # fmt: skip
def test_a_dependency_that_is_no_name_is_refused_naming_its_place(server: Any, dependency: str) -> None:
    reply = server.client().post(SETUP, json={"dependencies": ["packaging", dependency]})
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (422, "invalid_request")
    assert problem["field"].startswith("dependencies")
    assert "1" in problem["field"] or "1" in problem["detail"] or "2" in problem["detail"]


def test_too_many_dependencies_are_refused(server: Any) -> None:
    reply = server.client().post(SETUP, json={"dependencies": [f"x{number}" for number in range(51)]})
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_request")


def test_what_a_session_asks_for_it_gets(server: Any) -> None:
    session = server.session("asking", env={"GREETING": "hallo"}, ttl=120, resources={"memory_mb": 256, "pids": 64})
    assert session.value("os.getenv", "GREETING") == "hallo"
    (listed,) = session.client.get("/session").json()["sessions"]
    assert (listed["ttl"], listed["resources"]["memory_mb"], listed["resources"]["pids"]) == (120, 256, 64)
    assert (listed["network"], listed["environment"]) == ("none", session.setup["environment"]["id"])
    assert "hallo" not in json.dumps(listed)
    session.close()


def test_egress_is_forbidden_by_default(server: Any) -> None:
    reply = server.client().post(SETUP, json={"network": "egress"})
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")


def test_a_stream_ends_with_a_session_that_works(server: Any) -> None:
    client = server.client()
    reply = client.post(SETUP, json={}, headers={"Accept": "text/event-stream"})
    assert reply.headers["content-type"].startswith("text/event-stream")
    name, body = events(reply)[-1]
    assert name == "ready"
    assert {each for each, _ in events(reply)} <= {"progress", "ready"}
    call = {"sessionid": body["sessionid"], "namepath": "math.sqrt", "args": [9]}
    assert client.post("/environment/python/call", json=call).json()["value"] == 3.0


def test_a_setup_may_be_polled_by_its_owner_alone(server: Any) -> None:
    client = server.client()
    asked = client.post(SETUP, json={}, headers={"Prefer": "respond-async"})
    assert (asked.status_code, asked.headers["preference-applied"]) == (202, "respond-async")
    location = asked.headers["location"]
    assert server.client("eve").get(location).status_code == 404
    until = time.monotonic() + 240
    while (reply := client.get(location)).status_code == 202 and time.monotonic() < until:
        assert reply.json()["status"] == "building"
        time.sleep(0.05)
    assert reply.status_code == 200
    assert reply.json()["return"]["value"] == reply.json()["sessionid"]


def test_a_language_and_its_environments_are_told(server: Any) -> None:
    session = server.session()
    client = session.client
    told = client.get("/environment/python").json()
    assert told["default"] in told["versions"]
    id = session.setup["environment"]["id"]
    assert id in [each["id"] for each in told["environments"]]
    detail = client.get(f"/environment/python/{id}").json()
    assert detail["state"] == "ready"
    assert detail["size_bytes"] > 0
    assert detail["lock"]["id"] == detail["id"]
    assert "lock-version" in detail["pylock"]
    assert re.fullmatch(r"py3\.\d+-[0-9a-f]{24}", id)
    assert client.get("/environment/python/py3.12-" + "0" * 24).status_code == 404
    assert client.get("/environment/cobol").status_code == 404
    session.close()


# --- with the index ---


@pytest.mark.index
def test_numpy_is_set_up_and_its_exact_version_told(server: Any) -> None:
    session = server.session(dependencies=["NumPy"])
    namepath = [{"moduleName": "numpy"}, {"name": "array", "args": [[2, 4, 6]]}, {"name": "sum"}]
    reply = session.call(namepath, timeout="20000")
    assert (reply["error"], reply["value"]) == (False, 12)
    assert reply["type"].startswith("numpy.int")
    version = session.setup["environment"]["packages"]["numpy"]
    assert session.value(["numpy", "__version__"]) == version
    again = server.session(dependencies=[" numpy "])
    assert again.setup["environment"]["reused"] is True
    assert again.setup["environment"]["id"] == session.setup["environment"]["id"]
    detail = session.client.get(f"/environment/python/{session.setup['environment']['id']}").json()
    assert {package["name"]: len(package["sha256"]) for package in detail["lock"]["packages"]} == {"numpy": 64}
    assert detail["packages"]["numpy"] == version
    session.close()
    again.close()


@pytest.mark.index
def test_order_case_and_spelling_do_not_matter(server: Any) -> None:
    one = server.session(dependencies=["typing_extensions>=4", "SIX"])
    other = server.session(dependencies=["six", "Typing.Extensions >=4"])
    assert one.setup["environment"]["id"] == other.setup["environment"]["id"]
    assert other.setup["environment"]["reused"] is True
    one.close()
    other.close()


@pytest.mark.index
def test_two_who_ask_at_the_same_moment_share_one_build(server: Any) -> None:
    clients = [server.client(f"crowd-{number}") for number in range(4)]
    start = threading.Barrier(len(clients))
    replies: list[dict[str, Any]] = []

    def ask(client: httpx.Client) -> None:
        start.wait()
        reply = client.post(SETUP, json={"dependencies": ["toolz"]}, headers={"Accept": "text/event-stream"})
        replies.append(events(reply)[-1][1])

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({reply["environment"]["id"] for reply in replies}) == 1
    assert len({reply["sessionid"] for reply in replies}) == len(clients)


@pytest.mark.index
def test_a_set_that_cannot_be_is_refused_with_the_reason(server: Any) -> None:
    for dependencies in (["six<1", "six>2"], ["kodou-no-such-package-anywhere"]):
        reply = server.client().post(SETUP, json={"dependencies": dependencies})
        assert (reply.status_code, reply.json()["code"]) == (422, "dependency_unresolvable")
        assert dependencies[0].split("<")[0] in reply.json()["detail"]


@pytest.mark.index
def test_a_build_that_fails_carries_the_end_of_its_log(server: Any) -> None:
    # Published as source only, and its setup.py needs what Python 3 has not.
    reply = server.client().post(SETUP, json={"dependencies": ["functools32==3.2.3.post2"]})
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (422, "build_failed")
    assert "Python 2" in problem["log"]
    assert str(server.data_dir) not in reply.text
    again = server.session()
    assert again.value("math.sqrt", 4) == 2.0
    again.close()
