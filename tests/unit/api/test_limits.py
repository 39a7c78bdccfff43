"""Rates, places and admission, as a client meets them."""

import asyncio
from base64 import b64encode
from typing import Any

import anyio
import pytest

from orchestrator.errors import RateLimited

pytestmark = pytest.mark.anyio

SETUP = "/environment/python/setup"
CALL = "/environment/python/call"
BODY = {"sessionid": "s", "namepath": "a"}
ASYNC = {"Prefer": "respond-async"}
STREAM = {"Accept": "text/event-stream"}


def refused(reply: Any, status: int = 429, code: str = "rate_limited") -> bool:
    return (reply.status_code, reply.json()["code"]) == (status, code) and int(reply.headers["retry-after"]) >= 1


async def at_rest(api: Any) -> bool:
    """Whether all places have been given back, within a minute or so."""
    for _ in range(6000):
        if api.limits.setups.running == api.limits.requests.running == 0:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_key_that_asks_too_often_is_told_when_to_come_again_and_others_are_served(make_api: Any) -> None:
    api = await make_api(default_version="3.12", requests_per_s=0.001, burst_requests=3)
    ada, bob = await api.bearer(), await api.bearer("bob")
    replies = [await api.client.post(CALL, json=BODY, headers=ada) for _ in range(5)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429, 429]
    assert refused(replies[3])
    assert 900 <= int(replies[3].headers["retry-after"]) <= 1000
    assert refused(await api.client.get("/session", headers=ada))
    assert (await api.client.post(CALL, json=BODY, headers=bob)).status_code == 200
    assert len(api.sessions.calls) == 4


async def test_setups_have_a_tighter_rate_of_their_own(make_api: Any) -> None:
    api = await make_api(default_version="3.12", setups_per_s=0.001, burst_setups=2)
    ada = await api.bearer()
    assert [(await api.client.post(SETUP, json={}, headers=ada)).status_code for _ in range(3)] == [200, 200, 429]
    assert (await api.client.post(CALL, json=BODY, headers=ada)).status_code == 200


@pytest.mark.parametrize("form", [{}, ASYNC, STREAM], ids=["reply", "polled", "streamed"])
async def test_one_owner_s_setups_leave_room_for_others_and_all_are_bounded(
    make_api: Any, form: dict[str, str]
) -> None:
    api = await make_api(default_version="3.12", max_setups_per_owner=2, max_setups=3)
    api.environments.build = api.build(ended=False)
    ada, bob, eve = await api.bearer(), await api.bearer("bob"), await api.bearer("eve")

    async def setup(shown: dict[str, str]) -> Any:
        return await api.client.post(SETUP, json={}, headers={**shown, **form})

    under_way = [asyncio.create_task(setup(ada)), asyncio.create_task(setup(ada))]
    await anyio.wait_all_tasks_blocked()
    asked = len(api.environments.asked)
    assert refused(await setup(ada))
    under_way.append(asyncio.create_task(setup(bob)))
    await anyio.wait_all_tasks_blocked()
    assert refused(await setup(eve), 503, "unavailable")
    assert len(api.environments.asked) == asked + 1  # whoever was refused has cost nothing behind the edge
    api.environments.build.end.set()
    await asyncio.gather(*under_way)
    assert await at_rest(api)
    assert (await setup(eve)).status_code in (200, 202)
    await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("form", [{}, ASYNC, STREAM], ids=["reply", "polled", "streamed"])
async def test_a_setup_that_fails_keeps_no_place(make_api: Any, form: dict[str, str]) -> None:
    api = await make_api(default_version="3.12")
    api.environments.build = api.build(error=RateLimited("too many builds", after_s=1))
    await api.client.post(SETUP, json={}, headers={**await api.bearer(), **form})
    await api.client.post(SETUP, json={"nonsense": 1}, headers={**await api.bearer(), **form})
    assert await at_rest(api)


async def test_who_has_all_its_sessions_is_told_before_anything_is_built(api: Any) -> None:
    api.sessions.full = RateLimited("you have 50 sessions", after_s=5)
    assert refused(await api.client.post(SETUP, json={}, headers=await api.bearer()))
    assert not api.environments.asked


async def test_calls_under_way_are_bounded_for_a_key_and_for_all(make_api: Any) -> None:
    api = await make_api(default_version="3.12", max_requests_per_key=2, max_requests=3)
    held = asyncio.Event()

    async def call(*_: object, **__: object) -> Any:
        await held.wait()
        raise RateLimited("x", after_s=1)

    api.sessions.call = call
    ada, bob, eve = await api.bearer(), await api.bearer("bob"), await api.bearer("eve")
    under_way = [asyncio.create_task(api.client.post(CALL, json=BODY, headers=shown)) for shown in (ada, ada, bob)]
    await anyio.wait_all_tasks_blocked()
    assert refused(await api.client.post(CALL, json=BODY, headers=ada))
    assert refused(await api.client.post(CALL, json=BODY, headers=eve), 503, "unavailable")
    held.set()
    await asyncio.gather(*under_way)
    assert await at_rest(api)
    assert (await api.client.get("/session", headers=eve)).status_code == 200


async def test_bodies_in_hand_are_bounded_for_all_together(make_api: Any) -> None:
    api = await make_api(default_version="3.12", max_body_bytes=2000, max_held_bytes=3000)
    api.sessions.echo = True
    held = asyncio.Event()

    async def slowly() -> Any:
        yield b" " * 1900
        await held.wait()
        yield b'{"sessionid": "s", "namepath": "a"}'

    headers = await api.bearer()
    first = asyncio.create_task(api.client.post(CALL, content=slowly(), headers=headers))
    await anyio.wait_all_tasks_blocked()
    assert refused(await api.client.post(CALL, content=b" " * 1900, headers=headers), 503, "unavailable")
    held.set()
    assert (await first).status_code == 200
    assert (await api.client.post(CALL, content=slowly(), headers=headers)).status_code == 200


async def test_an_address_that_fails_too_often_is_told_so_and_a_good_token_is_still_good(make_api: Any) -> None:
    api = await make_api(failures_per_s=0.001, burst_failures=3)
    wrong = {"Authorization": "Bearer nonsense"}
    replies = [await api.client.get("/session", headers=wrong) for _ in range(5)]
    assert [reply.status_code for reply in replies] == [401, 401, 401, 429, 429]
    assert refused(replies[3])
    assert (await api.client.get("/session", headers=await api.bearer())).status_code == 200


async def test_past_that_no_secret_is_looked_up_for_the_address(make_api: Any) -> None:
    api = await make_api(failures_per_s=0.001, burst_failures=2)
    key = await api.keys.create("ada")
    asked = 0
    get = api.store.get

    async def counted(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        return await get(*arguments)

    api.store.get = counted
    for secret in ("wrong", "wrong", "wrong", key.secret):
        reply = await api.client.get("/session", auth=(key.key.id, secret))
    assert refused(reply)
    assert asked == 2


async def test_a_page_of_another_origin_cannot_use_basic_credentials_that_the_browser_remembers(api: Any) -> None:
    key = await api.keys.create("ada")
    basic = {"Authorization": "Basic " + b64encode(f"{key.key.id}:{key.secret}".encode()).decode()}
    for told in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://kodou"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[", "Content-Type": "text/plain"},
    ):
        reply = await api.client.post(SETUP, content=b"{}", headers={**basic, **told})
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden"), told
    for told in ({}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://kodou"}):
        assert (await api.client.post(SETUP, content=b"{}", headers={**basic, **told})).status_code == 200, told
