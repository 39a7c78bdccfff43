"""Both clients against a transport in place of the network."""

import asyncio
import inspect
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import httpx
import kodou
import pytest
from kodou import AsyncClient, Client, Progress, errors
from kodou.aio.client import MOST_AT_ONCE

READY = {
    "sessionid": "the-session",
    "error": False,
    "environment": {"id": "e1", "language": "python", "version": "3.12.4", "packages": {}, "reused": False},
    "expires": "2030-01-01T00:00:00Z",
}

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KODOU_URL", "KODOU_TOKEN"):
        monkeypatch.delenv(name, raising=False)


class Server:
    """Answers as the protocol says and keeps what it was asked."""

    def __init__(self, *call_replies: dict[str, Any]) -> None:
        self.requests: list[httpx.Request] = []
        self._replies = list(call_replies)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path.endswith("/setup"):
            if request.headers["accept"] != "text/event-stream":
                return httpx.Response(200, json=READY)
            stream = f'event: progress\ndata: {{"phase": "install"}}\n\nevent: ready\ndata: {json.dumps(READY)}\n\n'
            return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=stream.encode())
        if request.url.path == "/session":
            return httpx.Response(200, json={"error": False})
        return httpx.Response(200, json=self._replies.pop(0))

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]


def blocking(handler: Handler, **options: Any) -> Client:
    return Client("http://host/", "token", transport=httpx.MockTransport(handler), **options)


def awaited(handler: Handler) -> AsyncClient:
    return AsyncClient("http://host/", "token", transport=httpx.MockTransport(handler))


async def settled(value: Awaitable[Any] | Any) -> Any:
    return await value if inspect.isawaitable(value) else value


clients = pytest.mark.parametrize("make", [blocking, awaited])


def test_no_thread_waits_for_the_connection_of_another() -> None:
    all_there = threading.Barrier(120)  # more than httpx has connections by default

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            all_there.wait(60)
            self.send_response(200)
            self.send_header("Content-Length", "27")
            self.end_headers()
            self.wfile.write(b'{"error": false, "value":1}')

        def log_message(self, *_: object) -> None:
            pass

    class Crowded(ThreadingHTTPServer):
        request_queue_size = all_there.parties

    with (
        Crowded(("127.0.0.1", 0), Handler) as server,
        Client(f"http://127.0.0.1:{server.server_port}", "token") as client,
        ThreadPoolExecutor(all_there.parties + 1) as threads,
    ):
        serving = threads.submit(server.serve_forever)
        session = client.session("s")
        try:
            assert list(threads.map(session.call, ["f"] * all_there.parties)) == [1] * all_there.parties
        finally:
            server.shutdown()
            serving.result()


def test_a_fork_has_connections_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On its parent's, each would get replies that are meant for the other."""
    ports = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            ports.append(self.client_address[1])
            self.send_response(200)
            self.send_header("Content-Length", "27")
            self.end_headers()
            self.wfile.write(b'{"error": false, "value":1}')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(1) as threads:
        server.daemon_threads = True
        serving = threads.submit(server.serve_forever)
        try:
            with Client(f"http://127.0.0.1:{server.server_port}", "token") as client:
                client.session("s").call("f")
                client.session("s").call("f")
                parents = client._http
                monkeypatch.setattr("kodou.client.getpid", lambda: -1)
                client.session("s").call("f")
                parents.close()
        finally:
            server.shutdown()
            serving.result()
    assert ports[0] == ports[1] != ports[2]


def test_no_thread_of_a_fork_takes_its_parents_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("http://127.0.0.1:1", "token")
    parents, connect = client._http, httpx.Client
    process = -1
    monkeypatch.setattr("kodou.client.getpid", lambda: process)
    seen = []

    def connecting(**options: Any) -> httpx.Client:
        seen.append((client._process == process, client._http is parents))  # as another thread does meanwhile
        return connect(**options)

    monkeypatch.setattr("kodou.client.httpx.Client", connecting)
    with pytest.raises(errors.Unreachable):
        client.session("s").call("f")
    assert seen == [(False, True)]
    assert client._process == process
    parents.close()
    client.close()


def test_a_fork_that_has_no_connections_closes_none_of_its_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread of the parent may have held their lock, and nobody lets go of it in the fork."""
    client = Client("http://127.0.0.1:1", "token")
    with monkeypatch.context() as fork:
        fork.setattr("kodou.client.getpid", lambda: -1)
        client.close()
        assert not client._http.is_closed
    client.close()
    assert client._http.is_closed


class Gate(httpx.AsyncBaseTransport):
    """Answers once it is opened; a stream ends then. `inside`: how many requests have come and have no end yet."""

    def __init__(self) -> None:
        self.opened = anyio.Event()
        self.inside = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.inside += 1
        if request.headers["accept"] == "text/event-stream":
            return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=self._stream())
        await self.opened.wait()
        self.inside -= 1
        return httpx.Response(200, json={"error": False, "value": 1})

    async def _stream(self) -> AsyncIterator[bytes]:
        await self.opened.wait()
        self.inside -= 1
        yield b'event: result\ndata: {"error": false, "value": 2}\n\n'


@pytest.mark.anyio
async def test_of_many_tasks_some_wait_their_turn_before_any_connection() -> None:
    gate, values = Gate(), []
    async with AsyncClient("http://host", "token", transport=gate) as client, anyio.create_task_group() as tasks:

        async def call() -> None:
            values.append(await client.session("s").call("f"))

        async def follow() -> None:
            env = kodou.aio.Environment(client=client)
            env._session = client.session("s")
            values.append([told async for told in env.f().stream()][-1].value)

        for _ in range(MOST_AT_ONCE + 5):
            tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        assert gate.inside == MOST_AT_ONCE

        for _ in range(MOST_AT_ONCE + 1):  # streams take no turn: what one tells may be answered by calls and streams
            tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        assert gate.inside == 2 * MOST_AT_ONCE + 1

        with anyio.move_on_after(0) as given_up:  # whoever waits may give up
            await call()
        assert given_up.cancelled_caught
        gate.opened.set()
    assert sorted(values) == [1] * (MOST_AT_ONCE + 5) + [2] * (MOST_AT_ONCE + 1)
    assert gate.inside == 0


@pytest.mark.anyio
async def test_turns_are_given_back_by_what_fails() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        msg = "connection refused"
        raise httpx.ConnectError(msg)

    client = awaited(refuse)
    for _ in range(MOST_AT_ONCE + 1):
        with pytest.raises(errors.Unreachable):
            await client.session("s").call("f")
        with pytest.raises(errors.Unreachable):
            await client.setup(progress=print)


def test_an_async_client_may_be_made_outside_of_its_loop() -> None:
    client = awaited(Server({"error": False, "value": 1}))
    assert asyncio.run(client.session("s").call("f")) == 1


@clients
@pytest.mark.anyio
async def test_a_session_is_set_up_called_and_closed(make: Callable[[Handler], Any]) -> None:
    server = Server({"error": False, "value": 12}, {"error": False, "value": 3.0, "stdout": "hi\n"})
    client = make(server)
    session = await settled(client.setup(["numpy"], "3.12", ttl=60))
    value = await settled(session.call(["numpy", kodou.step("array", [2, 4, 6]), "sum"], axis=0))
    reply = await settled(session.reply("math.sqrt", 9, timeout=2))
    await settled(session.close())
    await settled(client.close())

    assert (value, reply.value, reply.stdout) == (12, 3.0, "hi\n")
    assert session.environment.version == "3.12.4"
    assert [(request.method, request.url.path) for request in server.requests] == [
        ("POST", "/environment/python/setup"),
        ("POST", "/environment/python/call"),
        ("POST", "/environment/python/call"),
        ("DELETE", "/session"),
    ]
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer token"}
    assert server.bodies[0] == {"dependencies": ["numpy"], "version": "3.12", "ttl": 60}
    assert server.bodies[1]["kwargs"] == {"axis": 0}
    assert (server.bodies[2]["sessionid"], server.bodies[2]["timeout"]) == ("the-session", 2000)


@clients
@pytest.mark.anyio
async def test_progress_is_told_as_the_build_goes(make: Callable[[Handler], Any]) -> None:
    steps: list[Progress] = []
    session = await settled(make(Server()).setup([], progress=steps.append))
    assert (session.id, steps) == ("the-session", [Progress("install")])


@clients
@pytest.mark.anyio
async def test_a_setup_refused_at_once_is_no_stream(make: Callable[[Handler], Any]) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"error": True, "code": "unauthorized", "detail": "who are you?"})

    with pytest.raises(errors.Unauthorized, match="who are you"):
        await settled(make(refuse).setup([], progress=print))


@clients
@pytest.mark.anyio
async def test_a_stream_that_breaks_off_is_an_error(make: Callable[[Handler], Any]) -> None:
    def cut(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=b"event: progress\n")

    with pytest.raises(errors.BadReply, match="ended before"):
        await settled(make(cut).setup([], progress=print))


@clients
@pytest.mark.anyio
async def test_a_server_that_is_not_there_is_unreachable(make: Callable[[Handler], Any]) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        msg = "connection refused"
        raise httpx.ConnectError(msg)

    for options in ({}, {"progress": print}):
        with pytest.raises(errors.Unreachable, match=r"http://host: connection refused"):
            await settled(make(refuse).setup([], **options))


@clients
@pytest.mark.anyio
async def test_a_remote_function_passes_every_name_on(make: Callable[[Handler], Any]) -> None:
    server = Server({"error": False, "value": 5.0})
    norm = make(server).session("s").function("numpy.linalg.norm", timeout=1)
    assert await settled(norm([3, 4], timeout=9)) == 5.0
    assert server.bodies == [
        {"sessionid": "s", "timeout": 1000, "namepath": "numpy.linalg.norm", "args": [[3, 4]], "kwargs": {"timeout": 9}}
    ]


def test_a_session_is_closed_at_the_end_of_its_block() -> None:
    server = Server()
    with blocking(server) as client, client.setup() as session:
        assert session.id == "the-session"
    assert server.requests[-1].method == "DELETE"


@pytest.mark.anyio
async def test_an_async_session_is_closed_at_the_end_of_its_block() -> None:
    server = Server()
    async with awaited(server) as client, await client.setup():
        pass
    assert server.requests[-1].method == "DELETE"


def test_what_went_wrong_first_is_not_hidden_by_a_failing_close() -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"error": True, "code": "shutting_down"})

    with pytest.raises(ZeroDivisionError), blocking(gone).session("s"):
        _ = 1 / 0
    with pytest.raises(errors.ShuttingDown), blocking(gone).session("s"):
        pass


def test_address_and_token_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KODOU_URL", "https://elsewhere:1/")
    monkeypatch.setenv("KODOU_TOKEN", " from-env\n")
    server = Server()
    Client(transport=httpx.MockTransport(server)).setup()
    assert str(server.requests[0].url) == "https://elsewhere:1/environment/python/setup"
    assert server.requests[0].headers["authorization"] == "Bearer from-env"


@pytest.mark.parametrize(
    ("url", "proxied"), [("http://127.0.0.1:8000", 0), ("http://localhost", 0), ("http://host", 1)]
)
def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch, url: str, proxied: int) -> None:
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    with Client(url, "token") as client:
        assert sum(transport is not None for transport in client._http._mounts.values()) == proxied


def test_no_token_says_what_to_do() -> None:
    with pytest.raises(errors.NotConfigured, match="KODOU_TOKEN"):
        Client("http://host")


@pytest.mark.parametrize("token", ["secret\nkey", "secret\r", "secr\u00e9t", "secret\x00"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(errors.NotConfigured, match="token holds") as caught:
        Client("http://host", f"{token}x")
    assert "secr" not in str(caught.value)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(errors.NotConfigured, match="http://"):
        Client("localhost:8000", "token")
    with pytest.raises(errors.NotConfigured):
        Client("http://host:port", "token").setup()


def test_a_session_does_not_show_its_id() -> None:
    assert "secret" not in repr(blocking(Server()).session("secret"))


def test_an_environment_that_cannot_be_set_up_lets_its_connections_go() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"error": True, "code": "unauthorized"})

    env = kodou.Environment(client=blocking(refuse))
    env._owns_client = True
    with pytest.raises(errors.Unauthorized), env:
        pass
    assert env._client._http.is_closed


def test_an_environment_opens_once() -> None:
    env = kodou.Environment(client=blocking(Server()))
    with env:
        assert env.open() is env
    with pytest.raises(RuntimeError, match="opens once"):
        env.open()
    with pytest.raises(RuntimeError, match="is closed"):
        _ = env.session


def test_a_lock_is_asked_for_by_the_environments_id() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("GET", "/environment/python/e1")
        return httpx.Response(200, json={"id": "e1", "lock": {"version": 1}})

    assert blocking(answer).lock("e1") == {"version": 1}
