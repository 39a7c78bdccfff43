"""Faults 14 and 15: clients that dawdle, and a herd that comes all at once. The others are served, and each by its own answer."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.drills.at_rest import at_rest, back_to
from tests.drills.conftest import drilled
from tests.drills.crowds import at_once, call_request, connected, request, until
from tests.servers import BACKENDS, Server, require

SETUP = "/environment/python/setup"
HALF_OPEN = 200
SLOW_READERS = 8
LARGE = 8_000_000  # bytes of a reply that a slow reader leaves lying
HERD = 500
CALLS = 200
SESSIONS = 10
RECOVERY_S = 120.0
REFUSALS = {429: {"rate_limited"}, 503: {"unavailable", "too_many_connections", "sandbox_lost"}}


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]
    took_s: float


@pytest.fixture(scope="module", params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    require(request.param)
    with drilled(
        request.param,
        KODOU_HEADER_TIMEOUT_S="3",
        KODOU_REPLY_TIMEOUT_S="3",
        KODOU_MAX_CONNECTIONS="400",
        KODOU_MAX_SESSIONS=str(SESSIONS),
    ) as found:
        yield found


def test_slow_clients_hold_nobody_up_and_are_cut_off(server: Server) -> None:
    session, slow = server.session(), server.session("slow")
    before = at_rest(server)
    with ExitStack() as crowd:
        for _ in range(HALF_OPEN):
            half = crowd.enter_context(connected(server))
            half.sendall(b"POST /environment/python/call HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
        for _ in range(SLOW_READERS):
            reader = crowd.enter_context(connected(server, receive_bytes=4096))
            reader.sendall(call_request(slow, "eval", f"'x' * {LARGE}"))
        assert [session.value("operator.add", number, 1) for number in range(CALLS)] == list(range(1, CALLS + 1))
        # They are still there, and the server has let go of them.
        until(lambda: not at_rest(server).gained(before), "slow connections are swept")
    assert slow.value("math.sqrt", 4) == 2.0
    for each in (session, slow):
        each.close()


def test_a_herd_of_calls_is_bounded_and_each_is_answered_with_its_own_value(server: Server) -> None:
    before = at_rest(server)
    sessions = [server.session(f"owner{number % 3}") for number in range(4)]
    calls = [
        call_request(sessions[number % len(sessions)], "eval", f"__import__('time').sleep(0.01) or 'n{number}'")
        for number in range(HERD)
    ]
    answers = asyncio.run(_herd(server, calls))
    for number, answer in enumerate(answers):
        _check_refusal(answer)
        assert answer is None or answer.status != 200 or answer.body.get("value") == f"n{number}"
    told = Counter(answer.status if answer else "cut off" for answer in answers)
    assert told[200] > len(sessions), told
    until(lambda: sessions[0].post("math.sqrt", 4).status_code == 200, "an answer", within_s=RECOVERY_S)
    for session in sessions:
        session.close()
    back_to(before, server)


def test_a_herd_of_setups_gets_as_many_sessions_as_there_may_be(server: Server) -> None:
    before = at_rest(server)
    server.session().close()  # the environment is there
    authorization = str(server.client().headers["Authorization"])
    answers = asyncio.run(_herd(server, [request("POST", SETUP, authorization, {}) for _ in range(HERD)]))
    for answer in answers:
        _check_refusal(answer)
    opened = [answer.body["sessionid"] for answer in answers if answer is not None and answer.status == 200]
    assert 0 < len(opened) == len(set(opened)) <= SESSIONS
    client = server.client()
    assert len(client.get("/session").json()["sessions"]) == len(opened)
    at_once(len(opened), lambda number: client.request("DELETE", "/session", json={"sessionid": opened[number]}))
    until(lambda: client.post(SETUP, json={}).status_code == 200, "a session", within_s=RECOVERY_S)
    for each in client.get("/session").json()["sessions"]:
        server.kodou("sessions", "stop", each["id"])
    back_to(before, server)


async def _herd(server: Server, requests: list[bytes]) -> list[Answer | None]:
    """Each request over a connection of its own, all at once; None where that was cut off."""
    url = urlsplit(server.url)

    async def ask(sent: bytes) -> Answer | None:
        began = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
        except OSError:
            return None
        try:
            writer.write(sent)
            received = await reader.read()
        except OSError:
            return None
        finally:
            writer.close()
        head, _, body = received.partition(b"\r\n\r\n")
        return Answer(int(head.split()[1]), json.loads(body), time.monotonic() - began) if body else None

    async with asyncio.timeout(240):
        return await asyncio.gather(*map(ask, requests))


def _check_refusal(answer: Answer | None) -> None:
    if answer is not None and answer.status != 200:
        assert answer.body["code"] in REFUSALS.get(answer.status, ()), answer
