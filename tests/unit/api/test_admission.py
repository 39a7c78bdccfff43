"""Refusals by the head of a request, on a real server and real sockets: those of the app, without asking it."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from orchestrator.api.calls import CallEndpoint
from orchestrator.api.middleware import request_id
from tests.unit.api.test_connection import PATIENCE_S, Served, serving

pytestmark = pytest.mark.anyio

PLACES = 2
BODY = b'{"sessionid": "s", "namepath": "a"}'

Reply = tuple[int, dict[bytes, bytes], bytes]


class Crowded:
    """`ada` has all her places, `bob` has none of his, and one call of hers has just been refused. `reached`: the ids of the
    calls that came to the app since then."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.reached: list[str] = []
        self.tokens: dict[str, str] = {}

    async def begin(self) -> None:
        api = self.served.api
        for owner in ("ada", "bob"):
            key = await api.keys.create(owner)
            self.tokens[owner] = key.api_id
            if owner == "ada":
                self.key_id = key.key.id
                for _ in range(PLACES):
                    api.limits.requests.enter(key.key.id)
        (first,) = await self.asked(self.call("ada", "first"))
        assert first[0] == 429
        self.reached.clear()

    def call(self, owner: str, id: str, *further: str, body: bytes = BODY) -> bytes:
        lines = ["Host: x", f"Authorization: Bearer {self.tokens[owner]}", f"X-Request-ID: {id}", *further]
        if "Transfer-Encoding: chunked" not in further:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(["POST /environment/python/call HTTP/1.1", *lines, "", ""]).encode() + body

    async def asked(self, *pieces: bytes) -> list[Reply]:
        """All replies on one connection to which these are sent, each when the server has read the one before."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.served.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                # That it comes by itself is what matters here; what is asserted holds either way.
                await asyncio.sleep(0.01)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                *found, last = replies(await reader.read())
        finally:
            writer.close()
        assert (last[0], json.loads(last[2])["status"]) == (200, "ok")  # the connection served on
        return found


def replies(received: bytes) -> list[Reply]:
    found = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        headers = {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines)}
        length = int(headers[b"content-length"])
        found.append((int(start.split()[1]), headers, received[:length]))
        received = received[length:]
    return found


@pytest.fixture(params=["one process", "worker"])
async def crowded(
    make_api: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Crowded]:
    endpoint = CallEndpoint.__call__

    async def seen(this: CallEndpoint, scope: Scope, receive: Receive, send: Send) -> None:
        crowded.reached.append(request_id(scope))
        await endpoint(this, scope, receive, send)

    monkeypatch.setattr(CallEndpoint, "__call__", seen)
    monkeypatch.setattr("orchestrator.auth.limits.REFUSING_S", PATIENCE_S)  # however slow the machine
    api = await make_api(default_version="3.12", max_requests_per_key=PLACES)
    async with serving(api, request.param) as served:
        crowded = Crowded(served)
        await crowded.begin()
        yield crowded
        gate = api.limits.requests
        assert gate.running == PLACES
        for _ in range(PLACES):  # nobody's place was given away
            gate.leave(crowded.key_id)
        assert gate.refusal(crowded.key_id) is None


def unlike(reply: Reply) -> Reply:
    """The reply without what differs from one second to the next."""
    status, headers, body = reply
    return status, {name: value for name, value in headers.items() if name != b"date"}, body


async def test_the_reply_is_the_app_s_and_the_app_is_not_asked(
    crowded: Crowded, monkeypatch: pytest.MonkeyPatch
) -> None:
    (by_head,) = await crowded.asked(crowded.call("ada", "r-1"))
    assert not crowded.reached
    monkeypatch.setattr("orchestrator.auth.limits.REFUSING_S", 0.0)
    (by_app,) = await crowded.asked(crowded.call("ada", "r-1"))
    assert crowded.reached == ["r-1"]
    assert unlike(by_head) == unlike(by_app)
    status, headers, body = by_head
    assert (status, json.loads(body)["code"], headers[b"x-request-id"]) == (429, "rate_limited", b"r-1")
    assert int(headers[b"retry-after"]) >= 1


async def test_whoever_has_places_is_served_meanwhile(crowded: Crowded) -> None:
    owners = ["bob", "ada", "bob", "ada"]
    found = await crowded.asked(*(crowded.call(owner, f"r-{number}") for number, owner in enumerate(owners)))
    assert [status for status, _, _ in found] == [200, 429, 200, 429]
    assert [headers[b"x-request-id"] for _, headers, _ in found] == [b"r-0", b"r-1", b"r-2", b"r-3"]
    assert {"r-0", "r-2"} <= set(crowded.reached)


async def test_replies_to_requests_sent_together_come_in_order(crowded: Crowded) -> None:
    owners = ["ada", "bob", "ada", "ada", "bob"]
    found = await crowded.asked(b"".join(crowded.call(owner, f"r-{number}") for number, owner in enumerate(owners)))
    assert [status for status, _, _ in found] == [429, 200, 429, 429, 200]
    assert [headers[b"x-request-id"] for _, headers, _ in found] == [b"r-%d" % number for number in range(5)]


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_refused_body_is_dropped_and_never_taken_for_a_request(crowded: Crowded, pieces: int) -> None:
    hidden = crowded.call("bob", "hidden")
    size = -(-len(hidden) // pieces)
    parts = [hidden[at : at + size] for at in range(0, len(hidden), size)]
    by_length = [crowded.call("ada", "r-1", body=b"x" * len(hidden))[: -len(hidden)], *parts]
    in_chunks = [
        crowded.call("ada", "r-2", "Transfer-Encoding: chunked", body=b""),
        *(b"%x\r\n%b\r\n" % (len(part), part) for part in parts),
        b"0\r\n\r\n",
    ]
    found = await crowded.asked(*by_length, *in_chunks, crowded.call("bob", "r-3"))
    assert [(status, headers[b"x-request-id"]) for status, headers, _ in found] == [
        (429, b"r-1"),
        (429, b"r-2"),
        (200, b"r-3"),
    ]
    assert "hidden" not in crowded.reached


async def test_a_refusal_waits_for_no_body_and_asks_for_none(crowded: Crowded) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", crowded.served.port)
    try:
        writer.write(crowded.call("ada", "r-1", "Expect: 100-continue")[: -len(BODY)])
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 429")
    finally:
        writer.close()


async def test_who_wants_the_connection_closed_gets_that_too(crowded: Crowded) -> None:
    (reply,) = replies(await crowded.served.exchange(crowded.call("ada", "r-1", "Connection: close")))
    assert (reply[0], reply[1][b"connection"]) == (429, b"close")
    assert not crowded.reached


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
async def test_nothing_is_served_behind_the_last_reply(crowded: Crowded, version: bytes) -> None:
    option = "Connection: keep-alive" if version == b"HTTP/1.0" else "Connection: close"
    last = crowded.call("ada", "r-1", option).replace(b"HTTP/1.1", version)
    (reply,) = replies(await crowded.served.exchange(last + crowded.call("bob", "r-2")))
    assert (reply[0], reply[1][b"connection"]) == (429, b"close")
    (found,) = await crowded.asked(crowded.call("bob", "r-3"))  # whatever came before has reached the app by now
    assert (found[0], crowded.reached) == (200, ["r-3"])


@pytest.mark.parametrize(
    ("further", "status"),
    [
        (("Host: evil.example",), 400),
        (("Content-Type: application/json", "Content-Type: text/plain"), 400),
        (("Authorization: Basic eDp5",), 400),
    ],
)
async def test_a_head_that_is_wrong_is_told_so(crowded: Crowded, further: tuple[str, ...], status: int) -> None:
    (reply,) = await crowded.asked(crowded.call("ada", "r-1", *further))
    assert reply[0] == status
