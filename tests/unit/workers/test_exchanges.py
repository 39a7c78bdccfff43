"""Requests between worker and owner, over a real socket: whole, bounded, and none in the way of another."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from orchestrator.workers import frames
from orchestrator.workers.frames import PIECE_BYTES, WINDOW
from tests.links import Linked, linked

pytestmark = pytest.mark.anyio

PATIENCE_S = 20.0
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"x-of", b"app")]}


class Connection:
    def __init__(self) -> None:
        self.leave: Callable[[], None] | None = None

    def watched_by(self, watcher: Callable[[], None] | None) -> None:
        self.leave = watcher


class Client:
    """One request at the worker, as uvicorn would bring it; `send` waits while the client does not read."""

    def __init__(
        self, path: str = "/", body: list[bytes] | None = None, *, hold: bool = False, expect: bool = False
    ) -> None:
        self.pieces = list(body or [])
        self.connection = Connection()
        headers = [(b"host", b"x")]
        if body is not None:
            headers.append((b"transfer-encoding", b"chunked"))
        if expect:
            headers.append((b"expect", b"100-continue"))
        self.scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"a=b",
            "client": ("192.0.2.1", 4711),
            "headers": headers,
            "state": {"connection": self.connection},
        }
        self.reads = asyncio.Event()
        if not hold:
            self.reads.set()
        self.asked = 0
        self.started = asyncio.Event()
        self.status = 0
        self.received: list[bytes] = []
        self.complete = False

    async def receive(self) -> Message:
        self.asked += 1
        if not self.pieces:
            await asyncio.Event().wait()
        piece = self.pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.started.set()
            return
        await self.reads.wait()
        self.received.append(message["body"])
        self.complete = not message["more_body"]

    async def through(self, link: Linked) -> "Client":
        async with asyncio.timeout(PATIENCE_S):
            await link.edge(self.scope, self.receive, self.send)
        return self


async def body_of(receive: Receive) -> bytes:
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message["body"])
        more = message["more_body"]
    return b"".join(pieces)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.01)


def through_link(app: Any, act: Callable[[Linked], Awaitable[None]]) -> None:
    async def run() -> None:
        async with linked(app) as link:
            await act(link)

    asyncio.run(run())


sizes = st.lists(
    st.sampled_from([0, 1, 100, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES]), max_size=4
)


@given(st.lists(st.tuples(sizes, sizes, st.booleans()), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_many_requests_at_once_each_arrive_whole(wanted: list[tuple[list[int], list[int], bool]]) -> None:
    """Each has a body in pieces, and a reply in pieces or in one; bytes tell whose they are."""
    got: dict[str, bytes] = {}

    def filled(number: int, sizes: list[int], salt: int) -> list[bytes]:
        return [bytes([(number * 31 + salt + place) % 256]) * size for place, size in enumerate(sizes)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        number = int(scope["path"][1:])
        got[scope["path"]] = await body_of(receive)
        _, reply, streamed = wanted[number]
        pieces = filled(number, reply, 7)
        await send(dict(START))
        if streamed:
            for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(0)
            pieces = []
        await send({"type": "http.response.body", "body": b"".join(pieces)})

    async def act(link: Linked) -> None:
        clients = [Client(f"/{i}", filled(i, body, 0) or [b""]) for i, (body, _, _) in enumerate(wanted)]
        await asyncio.gather(*(client.through(link) for client in clients))
        for number, (client, (body, reply, _)) in enumerate(zip(clients, wanted, strict=True)):
            assert client.complete
            assert got[f"/{number}"] == b"".join(filled(number, body, 0))
            assert b"".join(client.received) == b"".join(filled(number, reply, 7))
        assert not link.requests

    through_link(app, act)


async def test_the_app_sees_the_request_as_it_came() -> None:
    seen: Scope = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope)
        await send({**START, "status": 418})
        await send({"type": "http.response.body", "body": await body_of(receive)})

    async with linked(app) as link:
        client = await Client("/é", [b"whole"]).through(link)
    for name in ("type", "http_version", "method", "path", "raw_path", "query_string", "client", "headers"):
        assert seen[name] == client.scope[name]
    assert seen["state"] == {}
    assert (client.status, client.received) == (418, [b"whole"])


async def test_who_does_not_read_holds_up_the_app_and_nobody_else() -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send(dict(START))
        for _ in range(50 if scope["path"] == "/large" else 0):
            await send({"type": "http.response.body", "body": bytes(PIECE_BYTES), "more_body": True})
            sent += 1
        await send({"type": "http.response.body", "body": b"end"})

    async with linked(app) as link:
        slow = Client("/large", hold=True)
        reading = asyncio.create_task(slow.through(link))
        await until(lambda: sent >= WINDOW - 1)
        for _ in range(20):
            assert (await Client().through(link)).received == [b"end"]
        assert sent <= WINDOW + 1
        slow.reads.set()
        await reading
        assert sum(map(len, slow.received)) == 50 * PIECE_BYTES + 3


async def test_a_whole_reply_is_the_workers_to_hold_and_the_app_is_done_with_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        await send({"type": "http.response.body", "body": bytes(50 * PIECE_BYTES)})

    async with linked(app) as link:
        slow = Client(hold=True)
        reading = asyncio.create_task(slow.through(link))
        await slow.started.wait()
        await until(lambda: not link.requests)
        assert not slow.received
        slow.reads.set()
        await reading
        assert len(slow.received[0]) == 50 * PIECE_BYTES


async def test_of_a_body_no_more_is_taken_than_the_app_asks_for() -> None:
    turns = asyncio.Semaphore(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await turns.acquire()
        assert await body_of(receive) == b"x" * 10
        await send(dict(START))
        await send({"type": "http.response.body", "body": b""})

    async with linked(app) as link:
        large = Client("/", [b"x"] * 10)
        posting = asyncio.create_task(large.through(link))
        await until(lambda: bool(link.requests))
        await asyncio.sleep(0.05)
        assert large.asked == 1
        turns.release()
        await posting
        assert large.asked == 10


async def test_who_waits_for_100_continue_is_asked_for_a_body_only_if_the_app_wants_one() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        wanted = scope["path"] == "/wanted"
        body = await body_of(receive) if wanted else b"no"
        await send(dict(START))
        await send({"type": "http.response.body", "body": body})

    async with linked(app) as link:
        refused = await Client("/refused", [b"never"], expect=True).through(link)
        wanted = await Client("/wanted", [b"a", b"b"], expect=True).through(link)
    assert (refused.asked, refused.received) == (0, [b"no"])
    assert wanted.received == [b"ab"]


async def test_a_head_alone_is_enough_for_a_refusal() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({**START, "status": 401})
        await send({"type": "http.response.body", "body": b"no"})

    async with linked(app) as link:
        assert (await Client(body=[]).through(link)).status == 401  # of the body nothing ever comes


async def test_a_head_goes_out_before_there_is_any_body() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"later"})

    async with linked(app) as link:
        client = Client()
        reading = asyncio.create_task(client.through(link))
        async with asyncio.timeout(PATIENCE_S):
            await client.started.wait()
        go_on.set()
        await reading
        assert client.received == [b"later"]


async def test_the_app_learns_that_the_client_has_left() -> None:
    learned = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await body_of(receive) == b"x"
        await send(dict(START))
        assert (await receive())["type"] == "http.disconnect"
        for _ in range(100):
            await send({"type": "http.response.body", "body": bytes(PIECE_BYTES), "more_body": True})
        learned.set()

    async with linked(app) as link:
        client = Client(body=[b"x"])
        reading = asyncio.create_task(client.through(link))
        await client.started.wait()
        assert client.connection.leave is not None
        client.connection.leave()
        async with asyncio.timeout(PATIENCE_S):
            await learned.wait()
        assert not (await reading).complete  # nor does the worker wait for anything


@pytest.mark.parametrize("started", [False, True])
async def test_a_reply_that_the_app_does_not_end_is_not_ended_by_the_worker(started: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if started:
            await send(dict(START))
        msg = "broken"
        raise RuntimeError(msg)

    async with linked(app) as link:
        client = await Client().through(link)  # returns: uvicorn closes the connection then, or answers 500
    assert (client.started.is_set(), client.complete) == (started, False)


async def test_a_reply_that_cannot_be_sent_ends_the_request_at_the_owner() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        while (await receive())["type"] != "http.disconnect":
            pass

    class Broken(Client):
        async def send(self, message: Message) -> None:
            msg = "an invalid header"
            raise RuntimeError(msg)

    async with linked(app) as link:
        with pytest.raises(RuntimeError, match="invalid header"):
            await Broken().through(link)
        await until(lambda: not link.requests)


async def test_with_a_worker_go_its_requests_only_and_what_runs_ends_by_itself() -> None:
    ended = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(dict(START))
        message = await receive()
        await send({"type": "http.response.body", "body": b"into nothing"})
        ended.append(message["type"])

    async with linked(app) as dying, linked(app) as living:
        clients = [asyncio.create_task(Client(body=[]).through(dying)) for _ in range(3)]
        other = Client(body=[])
        reading = asyncio.create_task(other.through(living))
        await until(lambda: len(dying.requests) == 3 and len(living.requests) == 1)
        dying.edge.abort()
        async with asyncio.timeout(PATIENCE_S):
            await dying.owner.closed.wait()
        await until(lambda: not dying.requests)
        assert ended == ["http.disconnect"] * 3
        assert len(living.requests) == 1
        other.pieces = [b"x"]
        for task in (*clients, reading):
            task.cancel()
        await asyncio.gather(*clients, reading, return_exceptions=True)


async def test_the_owner_tells_a_worker_to_end() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    async with linked(app) as link:
        link.owner.stop()
        link.edge.write(frames.READY)
        async with asyncio.timeout(PATIENCE_S):
            await link.stopped.wait()
            await link.owner.ready.wait()
