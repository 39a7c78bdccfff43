"""The worker's end: an ASGI app that hands each request to the owner."""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import count

from starlette.types import Receive, Scope, Send

from orchestrator.workers import frames
from orchestrator.workers.connection import Connection
from orchestrator.workers.frames import Frame, Head, Link

# Many clients send the body right behind the head: then it goes to the owner in the head's frame.
_BODY_S = 0.05
_BODY_FOLLOWS = frozenset({b"content-length", b"transfer-encoding"})


class OwnerLink(Link):
    """To the owner. `on_stop`: it wants the worker to end in order. `on_lost`: it has ended itself."""

    def __init__(self, *, on_stop: Callable[[], None], on_lost: Callable[[], None]) -> None:
        super().__init__()
        self._on_stop = on_stop
        self._on_lost = on_lost
        self._exchanges: dict[int, Exchange] = {}
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = await _at_hand(scope, receive)
        exchange = Exchange(self, next(self._numbers), receive)
        connection: Connection = scope["state"]["connection"]
        self._exchanges[exchange.id] = exchange
        self.write(frames.REQUEST, exchange.id, frames.MORE if more else 0, _head(scope), body)
        connection.watched_by(exchange.left)
        try:
            await exchange.reply(send)
        finally:
            connection.watched_by(None)
            exchange.end()
            del self._exchanges[exchange.id]

    def heard(self, frame: Frame) -> None:
        if frame.kind == frames.STOP:
            self._on_stop()
        elif frame.kind == frames.ALIVE:
            self.write(frames.ALIVE)
        elif (exchange := self._exchanges.get(frame.id)) is not None:
            exchange.heard(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_lost()


class Exchange:
    """One request and its reply."""

    def __init__(self, link: Link, id: int, receive: Receive) -> None:
        self.id = id
        self._link = link
        self._receive = receive
        self._pulling: asyncio.Task[None] | None = None
        self._frames: deque[Frame] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._parts: list[Frame] = []  # of a message that is not whole yet
        self._over = False

    def heard(self, frame: Frame) -> None:
        if frame.kind == frames.PULL:
            self._pulling = asyncio.get_running_loop().create_task(self._pull())
            return
        if frame.kind == frames.REPLY and frame.flags & frames.PART:
            # Not only when the client has read it: a message of the app is the worker's to hold, as one process does.
            self._link.write(frames.TAKEN, self.id)
            self._parts.append(frame)
            return
        if self._parts and frame.kind == frames.REPLY:
            body = b"".join([*(part.body for part in self._parts), frame.body])
            frame = frame._replace(head=self._parts[0].head, body=body)
            self._parts.clear()
        self._frames.append(frame)
        self._wake()

    async def reply(self, send: Send) -> None:
        """Pass the reply on, no faster than the client reads. Returns with the reply unfinished where the app did so, or
        the client has left.
        """
        while not self._over:
            if not self._frames:
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting
                continue
            frame = self._frames.popleft()
            if frame.kind == frames.CUT:
                self._over = True
                return
            if frame.head:
                start = frames.decode_reply_head(frame.head)
                await send({"type": "http.response.start", "status": start.status, "headers": start.headers})
            more = bool(frame.flags & frames.MORE)
            if not more:
                self._over = True
            if frame.body or not more:
                await send({"type": "http.response.body", "body": frame.body, "more_body": more})
            if more:
                self._link.write(frames.TAKEN, self.id)

    def left(self) -> None:
        """The client has: the owner sends no more."""
        if not self._over:
            self._over = True
            self._link.write(frames.GONE, self.id)
            self._wake()

    def end(self) -> None:
        if self._pulling is not None:
            self._pulling.cancel()
        self.left()  # if the reply was such that it could not be sent

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def _pull(self) -> None:
        message = await self._receive()
        if message["type"] == "http.request":
            flags = frames.MORE if message.get("more_body", False) else 0
            self._link.write(frames.BODY, self.id, flags, b"", message.get("body", b""))


async def _at_hand(scope: Scope, receive: Receive) -> tuple[bytes, bool]:
    """What is there of the body or comes at once, and whether there may be more. The app is to see the head either way: it
    may refuse the request for that alone. Who waits for `100 Continue` gets it when the app asks for the body.
    """
    names = {name for name, _ in scope["headers"]}
    if names.isdisjoint(_BODY_FOLLOWS):
        return b"", False
    if b"expect" not in names:
        try:
            async with asyncio.timeout(_BODY_S):
                message = await receive()
        except TimeoutError:
            return b"", True
        if message["type"] == "http.request":
            return message.get("body", b""), message.get("more_body", False)
    return b"", True


def _head(scope: Scope) -> bytes:
    return frames.encode(
        Head(
            scope["http_version"],
            scope["method"],
            scope["path"],
            scope["raw_path"],
            scope["query_string"],
            scope["client"],
            scope["headers"],
        )
    )
