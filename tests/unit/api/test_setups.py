import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from orchestrator.api import operations, progress
from orchestrator.errors import BuildFailed, DependencyUnresolvable, KodouError, RateLimited, UnknownVersion

pytestmark = pytest.mark.anyio

URL = "/environment/python/setup"
ASYNC = {"Prefer": "respond-async"}
STREAM = {"Accept": "text/event-stream"}


async def post(api: Any, body: object = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    return await api.client.post(URL, content=content, headers={**await api.bearer(), **headers})


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


async def test_the_reply_has_the_members_that_clients_read(api: Any) -> None:
    reply = await post(api, {"version": "3.12", "dependencies": ["numpy"], "refresh": True})
    body = reply.json()
    sessionid = body["sessionid"]
    assert reply.status_code == 200
    assert body == {
        "sessionid": sessionid,
        "error": False,
        "return": {"error": False, "value": sessionid},
        "environment": {
            "id": api.environment.id,
            "language": "python",
            "version": "3.12.4",
            "packages": {"numpy": "2.4.6"},
            "reused": True,
        },
        "expires": "2030-01-01T13:00:00Z",
        "cold": "session",
    }
    assert api.environments.asked == [("python", "3.12", ["numpy"], True)]
    assert api.environments.touched == [api.environment.id]


async def test_distributions_are_told_apart_from_what_else_dependencies_say(api: Any) -> None:
    sets = [["Foo_bar[x]>=1", "a; python_version > '3'", "foo.bar"], ["a", "foo-bar==2"], []]
    for dependencies in sets:
        assert (await post(api, {"dependencies": dependencies})).is_success
    assert [options.distributions for options in api.sessions.options] == [("a", "foo-bar"), ("a", "foo-bar"), ()]


async def test_the_environment_that_another_took_the_place_of_is_told(api: Any) -> None:
    api.environments.build = api.build(replaced="py3.12-old")
    assert (await post(api)).is_success
    assert api.sessions.replaced_ids == ["py3.12-old"]


async def test_a_session_is_opened_with_what_was_asked_for_and_defaults_for_the_rest(make_api: Any) -> None:
    api = await make_api(default_version="3.12", allow_egress=True)
    wanted = {"resources": {"memory_mb": 256, "cpus": 2}, "network": "egress", "env": {"_A1": "x y"}, "ttl": 60}
    allowed = await api.bearer(scopes=("setup", "egress"))
    assert (await post(api, wanted, **allowed)).status_code == 200
    assert (await post(api, {"resources": None, "env": None, "ttl": None, "network": None, "version": None})).is_success
    first, second = api.sessions.options
    assert (first.resources.memory_mb, first.resources.cpus, first.resources.pids) == (256, 2, api.settings.pids)
    assert (first.network, first.env, first.ttl_s) == ("egress", {"_A1": "x y"}, 60)
    assert (second.network, second.env, second.ttl_s) == ("none", {}, api.settings.session_ttl_s)
    assert second.resources.disk_mb == api.settings.disk_mb


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"version": 3}, "version"),
        ({"version": 3.12}, "version"),
        ({"version": "3" * 51}, "version"),
        ({"dependencies": "numpy"}, "dependencies"),
        ({"dependencies": [1]}, "dependencies[0]"),
        ({"dependencies": ["numpy", None]}, "dependencies[1]"),
        ({"dependancies": ["numpy"]}, "dependancies"),
        ({"privileged": True}, "privileged"),
        ({"resources": {"memory_mb": "512"}}, "resources.memory_mb"),
        ({"resources": {"memory_mb": 512.5}}, "resources.memory_mb"),
        ({"resources": {"memory_mb": 1}}, "resources.memory_mb"),
        ({"resources": {"memory_mb": 10**6}}, "resources.memory_mb"),
        ({"resources": {"memory_mb": 10**400}}, "resources.memory_mb"),
        ({"resources": {"cpus": 0}}, "resources.cpus"),
        ({"resources": {"cpus": 5}}, "resources.cpus"),
        ({"resources": {"pids": 1025}}, "resources.pids"),
        ({"resources": {"disk_mb": 2049}}, "resources.disk_mb"),
        ({"resources": {"volumes": "/"}}, "resources.volumes"),
        ({"resources": []}, "resources"),
        ({"network": "host"}, "network"),
        ({"network": True}, "network"),
        ({"env": {"A-B": "x"}}, "env.A-B"),
        ({"env": {"1A": "x"}}, "env.1A"),
        ({"env": {"": "x"}}, "env."),
        ({"env": {"A\n": "x"}}, "env.A\n"),
        ({"env": {"Ä": "x"}}, "env.Ä"),
        ({"env": {"A": "x\0y"}}, "env.A"),
        ({"env": {"A": 1}}, "env.A"),
        ({"env": {"A": "x" * 16_385}}, "env"),
        ({"env": {f"A{number}": "" for number in range(65)}}, "env"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": True}, "ttl"),
        ({"ttl": "60"}, "ttl"),
        ({"ttl": 86_401}, "ttl"),
        ({"refresh": "yes"}, "refresh"),
        ([], "body"),
        ("numpy", "body"),
    ],
)
async def test_a_body_of_the_wrong_shape_is_refused_naming_the_member(api: Any, body: object, field: str) -> None:
    reply = await post(api, body)
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem["field"]) == (422, "invalid_request", field)
    assert problem["errors"][0]["field"] == field
    assert not api.environments.asked


async def test_every_unknown_member_and_every_bound_is_named(api: Any) -> None:
    unknown = (await post(api, {"a": 1, "b": 2})).json()
    assert [fault["field"] for fault in unknown["errors"]] == ["a", "b"]
    over = (await post(api, {"resources": {"memory_mb": 5000, "pids": 5000}, "ttl": 10**6})).json()
    assert [fault["field"] for fault in over["errors"]] == ["resources.memory_mb", "resources.pids", "ttl"]
    assert "4096" in over["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"ttl": NaN}', 400),
        (b"\xff", 400),
        (b'{"version": "\\ud800"}', 422),
        (b'{"\\ud800": 1}', 422),
        (b'{"ttl": 1, "ttl": 2}', 422),
        (b'{"resources": {"cpus": 1e999}}', 422),
        (b'{"ttl": %s}' % (b"9" * 5000), 422),
        (b"[" * 100_000, 422),
        (b'{"dependencies": %s}' % (b"[" * 100_000), 422),
    ],
)
async def test_bytes_that_parsers_disagree_on_are_refused_never_a_500(api: Any, body: bytes, status: int) -> None:
    reply = await post(api, body)
    assert (reply.status_code, reply.json()["code"]) == (status, "invalid_request")


@pytest.mark.parametrize(
    ("allow_egress", "scopes", "missing"),
    [
        (False, ("setup", "egress"), "this server does not allow"),
        (False, ("setup",), "this server does not allow"),
        (True, ("setup", "call", "admin"), "scope 'egress'"),
    ],
)
async def test_egress_is_forbidden_unless_the_operator_and_the_key_allow_it(
    make_api: Any, allow_egress: bool, scopes: tuple[str, ...], missing: str
) -> None:
    api = await make_api(allow_egress=allow_egress)
    reply = await post(api, {"network": "egress"}, **await api.bearer(scopes=scopes))
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")
    assert missing in reply.json()["detail"]
    assert api.sessions.options == []


async def test_a_form_is_refused_with_what_to_send(api: Any) -> None:
    reply = await api.client.post(URL, files={"version": b"3"}, headers=await api.bearer())
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")
    assert "application/json" in reply.json()["detail"]


async def test_a_key_without_the_scope_is_forbidden_to_set_up(api: Any) -> None:
    reply = await api.client.post(URL, json={}, headers=await api.bearer(scopes=["call"]))
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("language", ["cobol", "Python", "python3"])
async def test_an_unknown_language_is_not_found(api: Any, language: str) -> None:
    reply = await api.client.post(f"/environment/{language}/setup", json={}, headers=await api.bearer())
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnknownVersion("on offer: 3.12.4", offered=["3.12.4"]), 422),
        (RateLimited("too many builds", after_s=10), 429),
    ],
)
async def test_a_refusal_before_the_build_is_a_problem_in_every_form(api: Any, error: KodouError, status: int) -> None:
    api.environments.refusal = error
    for headers in ({}, STREAM, ASYNC):
        reply = await post(api, **headers)
        assert (reply.status_code, reply.json()["code"]) == (status, error.code)


async def test_a_failed_build_carries_the_end_of_its_log(api: Any) -> None:
    api.environments.build = api.build(error=BuildFailed("broken did not build", log_tail="gcc: no"))
    reply = await post(api)
    assert (reply.status_code, reply.json()["code"], reply.json()["log"]) == (422, "build_failed", "gcc: no")
    assert not api.sessions.opened


async def test_a_setup_waits_for_the_interpreters_of_a_first_start(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.api.setups.PREPARATION_S", 0.01)
    api.backend.images.prepared = False
    reply = await post(api)
    assert (reply.status_code, reply.json()["code"]) == (503, "engine_unavailable")
    assert "prepared" in reply.json()["detail"]
    api.backend.images.prepared = True
    assert (await post(api)).status_code == 200


# --- as a stream ---


async def test_the_stream_tells_progress_and_ends_with_the_reply(api: Any) -> None:
    reply = await post(api, **STREAM)
    told = events(reply.text)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert [name for name, _ in told] == ["progress", "progress", "progress", "ready"]
    assert told[1][1] == {"phase": "fetch", "package": "numpy", "bytes": 5, "total": 10}
    assert told[-1][1]["return"]["value"] == told[-1][1]["sessionid"]


async def test_a_stream_may_be_asked_for_in_any_line_of_several(api: Any) -> None:
    lines = [*(await api.bearer()).items(), ("Accept", "application/json;q=0.1"), *STREAM.items()]
    reply = await api.client.post(URL, json={}, headers=httpx.Headers(lines))
    assert reply.headers["content-type"].startswith("text/event-stream")


async def test_the_stream_ends_with_the_problem_of_a_build_that_fails(api: Any) -> None:
    api.environments.build = api.build(error=DependencyUnresolvable("no versions of nmpy"))
    reply = await post(api, **STREAM, **{"X-Request-ID": "r-5"})
    name, problem = events(reply.text)[-1]
    assert (reply.status_code, name) == (200, "error")
    assert (problem["code"], problem["status"], problem["request_id"]) == ("dependency_unresolvable", 422, "r-5")


async def test_a_silent_build_keeps_the_stream_alive(api: Any) -> None:
    build = api.build(ended=False)

    class Waiting:
        def __init__(self) -> None:
            self.build = build

        async def finish(self) -> dict[str, object]:
            await build.result()
            return {"sessionid": "s"}

    told: list[bytes] = []
    async for chunk in progress.stream(Waiting(), "r-1", keep_alive_s=0.01):  # type: ignore[arg-type]
        told.append(chunk)
        if told.count(b": still building\n\n") == 2:
            build.end.set()
    assert told[-1].startswith(b"event: ready\n")


async def test_a_log_line_cannot_forge_an_event(api: Any) -> None:
    class Forging(type(api.build())):  # type: ignore[misc]
        async def events(self) -> AsyncIterator[Any]:
            yield progress.BuildEvent("install", line="x\n\nevent: ready\r\ndata: {}\u2028")

    api.environments.build = Forging()
    assert [name for name, _ in events((await post(api, **STREAM)).text)] == ["progress", "ready"]


# --- a client that leaves ---


async def left_while(api: Any, moment: Any, headers: dict[str, str]) -> None:
    """Drive one setup by hand; the client leaves once `moment` has come."""
    gone = asyncio.Event()
    sent = False

    async def receive() -> dict[str, object]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": b"{}"}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    all_headers = {"Host": "localhost", **await api.bearer(), **headers}
    shown = [(name.lower().encode(), value.encode()) for name, value in all_headers.items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST", "path": URL,
        "raw_path": URL.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": shown,
        "client": ("c", 1), "server": ("s", 1),
    }  # fmt: skip
    request = asyncio.create_task(api.app(scope, receive, send))
    await asyncio.wait({request, arriving := asyncio.create_task(moment())}, return_when=asyncio.FIRST_COMPLETED)
    assert arriving.done(), "the request ended before its moment"
    gone.set()
    if not headers:  # without a stream nobody listens for the leaving; the build's end finds it out
        api.environments.build.end.set()
        if api.sessions.opening is not None:
            api.sessions.opening.set()
    await request


@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_a_client_that_leaves_while_building_opens_no_session(api: Any, headers: dict[str, str]) -> None:
    api.environments.build = build = api.build(ended=False)

    async def building() -> None:
        while not api.environments.asked:
            await anyio.lowlevel.checkpoint()

    await left_while(api, building, headers)
    build.end.set()
    await build.result()  # the build itself went on
    assert len(api.sessions.opened) == len(api.sessions.closed)


@pytest.mark.parametrize("headers", [{}, STREAM])
async def test_a_session_that_opens_for_nobody_is_closed(api: Any, headers: dict[str, str]) -> None:
    api.environments.build = api.build()
    api.sessions.opening = asyncio.Event()

    async def opening() -> None:
        while not api.sessions.waiting:
            await anyio.lowlevel.checkpoint()

    await left_while(api, opening, headers)
    # Of a stream the opening itself is cancelled, and `SessionManager.open` leaves nothing then.
    assert len(api.sessions.opened) == len(api.sessions.closed) == (0 if headers else 1)


async def test_a_session_whose_event_was_not_taken_is_closed(api: Any) -> None:
    class Finished:
        build = api.build()
        abandoned = 0

        async def finish(self) -> dict[str, object]:
            return {"sessionid": "s"}

        async def abandon(self) -> None:
            self.abandoned += 1

    for taken in (False, True):
        setup = Finished()
        chunks = progress.stream(setup, "r-1")  # type: ignore[arg-type]
        async for chunk in chunks:
            if chunk.startswith(b"event: ready") and not taken:
                break
        await chunks.aclose()  # type: ignore[attr-defined]
        assert setup.abandoned == (0 if taken else 1)


# --- to be polled ---


async def test_a_setup_may_be_polled(api: Any) -> None:
    api.environments.build = build = api.build(ended=False)
    headers = await api.bearer()
    asked = await api.client.post(URL, json={}, headers={**headers, **ASYNC})
    assert (asked.status_code, asked.headers["preference-applied"]) == (202, "respond-async")
    assert int(asked.headers["retry-after"]) >= 1
    location = asked.headers["location"]
    await anyio.wait_all_tasks_blocked()
    pending = await api.client.get(location, headers=headers)
    assert (pending.status_code, pending.json()["status"], pending.json()["phase"]) == (202, "building", "fetch")
    build.end.set()
    await anyio.wait_all_tasks_blocked()
    done = await api.client.get(location, headers=headers)
    assert done.status_code == 200
    assert done.json()["sessionid"]
    assert (await api.client.get(location, headers=headers)).json() == done.json()
    assert len(api.sessions.opened) == 1


async def test_a_polled_setup_that_fails_is_its_problem_with_its_status(api: Any) -> None:
    api.environments.build = api.build(error=BuildFailed("x", log_tail="y"))
    headers = await api.bearer()
    location = (await api.client.post(URL, json={}, headers={**headers, **ASYNC})).headers["location"]
    await anyio.wait_all_tasks_blocked()
    for _ in range(2):
        reply = await api.client.get(location, headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (422, "build_failed")


async def test_another_owner_cannot_see_a_polled_setup(api: Any) -> None:
    location = (await post(api, **ASYNC)).headers["location"]
    reply = await api.client.get(location, headers=await api.bearer("eve"))
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    unknown = await api.client.get(f"{URL}/{'0' * 32}", headers=await api.bearer())
    assert unknown.json()["detail"] == reply.json()["detail"]


async def test_of_outcomes_an_owner_has_its_newest_kept_and_no_other_owner_s_are_dropped(
    api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "KEPT_PER_OWNER", 2)
    ada, bob = await api.bearer(), await api.bearer("bob")
    locations = []
    for shown in (bob, ada, ada, ada):
        locations.append((await api.client.post(URL, json={}, headers={**shown, **ASYNC})).headers["location"])
        await anyio.wait_all_tasks_blocked()
    replies = [
        await api.client.get(location, headers=shown)
        for location, shown in zip(locations, (bob, ada, ada, ada), strict=True)
    ]
    assert [reply.status_code for reply in replies] == [200, 404, 200, 200]


async def test_outcomes_are_forgotten_after_an_hour(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = await api.bearer()
    location = (await api.client.post(URL, json={}, headers={**headers, **ASYNC})).headers["location"]
    await anyio.wait_all_tasks_blocked()
    monkeypatch.setattr(operations, "KEPT_S", -1.0)
    assert (await api.client.get(location, headers=headers)).status_code == 404


# --- what there is ---


async def test_a_language_tells_versions_default_and_environments(api: Any) -> None:
    reply = await api.client.get("/environment/python", headers=await api.bearer(scopes=["call"]))
    assert reply.json() == {
        "error": False,
        "language": "python",
        "versions": ["3.12.4"],
        "default": "3.12.4",
        "environments": [
            {
                "id": api.environment.id,
                "language": "python",
                "version": "3.12.4",
                "packages": {"numpy": "2.4.6"},
                "state": "ready",
                "size_bytes": 1234,
                "created": "2030-01-01T12:00:00Z",
                "last_used": "2030-01-01T12:00:00Z",
            }
        ],
    }


async def test_an_environment_tells_its_lock(api: Any) -> None:
    headers = await api.bearer()
    reply = await api.client.get(f"/environment/python/{api.environment.id}", headers=headers)
    assert reply.json()["lock"] == {"version": 1}
    assert reply.json()["pylock"] == api.environment.lock
    assert reply.json()["uses"] == 3
    missing = await api.client.get("/environment/python/py3.12-none", headers=headers)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    other = await api.client.get("/environment/cobol", headers=headers)
    assert (other.status_code, other.json()["code"]) == (404, "not_found")
