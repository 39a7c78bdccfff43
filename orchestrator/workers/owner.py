"""The owner's end: requests that a worker hands over, run on the app as if they had come here."""

import asyncio

from starlette.types import ASGIApp, Message, Scope

from orchestrator.api.admission import Refuser, admit
from orchestrator.telemetry import log
from orchestrator.workers import frames
from orchestrator.workers.frames import Frame, Link

_ASGI = {"version": "3.0", "spec_version": "2.3"}  # uvicorn's


class WorkerLink(Link):
    """To one worker. `tasks`: where requests under way are to be found; they outlive the link, as they do a client.
    `refusal`: the app's, if it has one."""

    def __init__(self, app: ASGIApp, tasks: "set[asyncio.Task[None]]", refusal: Refuser = admit) -> None:
        super().__init__()
        self._app = app
        self._refusal = refusal
        self._tasks = tasks
        self._exchanges: dict[int, Exchange] = {}
        self._loop = asyncio.get_running_loop()
        self.ready = asyncio.Event()
        self.closed = asyncio.Event()
        self.alive = False  # it has answered since the last `ask`

    def stop(self) -> None:
        """Have the worker end once its requests have."""
        self.write(frames.STOP)

    def ask(self) -> None:
        """Whether it is alive."""
        self.alive = False
        self.write(frames.ALIVE)

    def heard(self, frame: Frame) -> None:
        kind, flags, id, head, body = frame
        if kind == frames.REQUEST:
            scope = scope_of(head)
            if (refusal := self._refusal(scope)) is not None:
                status, headers, text = refusal
                self.write(frames.REPLY, id, 0, frames.encode((status, headers)), text)
                return
            exchange = Exchange(self, id, scope, body, more=bool(flags & frames.MORE))
            self._exchanges[id] = exchange
            task = self._loop.create_task(exchange.run(self._app))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif kind == frames.READY:
            self.ready.set()
        elif kind == frames.ALIVE:
            self.alive = True
        elif (found := self._exchanges.get(id)) is not None:
            if kind == frames.TAKEN:
                found.taken()
            elif kind == frames.BODY:
                found.arrived(body, more=bool(flags & frames.MORE))
            elif kind == frames.GONE:
                found.left()

    def ended(self, id: int) -> None:
        self._exchanges.pop(id, None)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for exchange in self._exchanges.values():
            exchange.left()
        self.closed.set()


class Exchange:
    """One request and its reply: what uvicorn's cycle is to an app."""

    __slots__ = (
        "_complete",
        "_id",
        "_left",
        "_link",
        "_more",
        "_piece",
        "_pulling",
        "_receiving",
        "_scope",
        "_sending",
        "_start",
        "_untaken",
    )

    def __init__(self, link: WorkerLink, id: int, scope: Scope, body: bytes, *, more: bool) -> None:
        self._link = link
        self._id = id
        self._scope = scope
        self._piece: bytes | None = body if body or not more else None
        self._more = more
        self._pulling = False
        self._left = False
        self._complete = False
        self._start: Message | None = None
        self._untaken = 0
        self._receiving: asyncio.Future[None] | None = None
        self._sending: asyncio.Future[None] | None = None

    async def run(self, app: ASGIApp) -> None:
        try:
            await app(self._scope, self.receive, self.send)
        except Exception as exc:
            log.error("a reply is cut short", exc_info=exc)
        finally:
            if not self._complete and not self._left:
                self._begin()
                self._link.write(frames.CUT, self._id)
            self._link.ended(self._id)

    async def receive(self) -> Message:
        while not self._left and not self._complete:
            if self._piece is not None:
                piece, self._piece = self._piece, None
                return {"type": "http.request", "body": piece, "more_body": self._more}
            if self._more and not self._pulling:
                self._pulling = True
                self._link.write(frames.PULL, self._id)
            self._receiving = asyncio.get_running_loop().create_future()
            await self._receiving
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._left:
            return
        if message["type"] == "http.response.start":
            self._start = message
            # Goes out with the body, which nearly always follows at once; by itself if it does not.
            asyncio.get_running_loop().call_soon(self._begin)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if not more and len(body) <= frames.PIECE_BYTES and not self._untaken:  # nearly always
            self._link.write(frames.REPLY, self._id, 0, self._head(), body)
        else:
            await self._send_pieces(memoryview(body), more=more)
        if not more:
            self._complete = True
            _wake(self._receiving)

    async def _send_pieces(self, body: memoryview, *, more: bool) -> None:
        at = 0
        while True:
            while self._untaken >= frames.WINDOW and not self._left:
                self._sending = asyncio.get_running_loop().create_future()
                await self._sending
            if self._left:
                return
            piece = body[at : at + frames.PIECE_BYTES]
            at += len(piece)
            flags = frames.PART if at < len(body) else frames.MORE if more else 0
            self._untaken += 1
            self._link.write(frames.REPLY, self._id, flags, self._head(), piece)
            if at == len(body):
                return

    def _head(self) -> bytes:
        start, self._start = self._start, None
        return b"" if start is None else frames.encode((start["status"], start.get("headers", ())))

    def _begin(self) -> None:
        """Send the head, if it has not gone out with a piece of the body."""
        if self._start is not None and not self._left:
            self._untaken += 1
            self._link.write(frames.REPLY, self._id, frames.MORE, self._head())

    def taken(self) -> None:
        self._untaken -= 1
        _wake(self._sending)

    def arrived(self, piece: bytes, *, more: bool) -> None:
        self._piece, self._more, self._pulling = piece, more, False
        _wake(self._receiving)

    def left(self) -> None:
        """The client has, or its worker has ended: what is sent goes nowhere."""
        self._left = True
        _wake(self._receiving)
        _wake(self._sending)


def scope_of(encoded: bytes) -> Scope:
    head = frames.decode_head(encoded)
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": head.http_version,
        "server": None,
        "client": head.client,
        "scheme": "http",
        "method": head.method,
        "root_path": "",
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query_string,
        "headers": head.headers,
        "state": {},
    }


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
