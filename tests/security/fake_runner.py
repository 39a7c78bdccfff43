"""A runner that a test drives frame by frame, and a gallery of runners that misbehave, each by name.

It runs on the test's own event loop, over a real socket, so that every order of events can be staged without sleeping.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from runner import frames

from orchestrator.sandboxes.channel import RunnerChannel, RunnerConfig
from orchestrator.sandboxes.link import SOCKET_NAME, Link
from orchestrator.sandboxes.replies import Reply
from orchestrator.sandboxes.socket_channel import SocketChannel, greet
from orchestrator.sandboxes.work import Work

CONFIG = RunnerConfig(
    env={"GREETING": "hello"},
    max_reply_bytes=1_000_000,
    max_output_bytes=1000,
    max_items=1000,
    orphan_s=600,
    fsize_bytes=1_000_000,
    max_content_bytes=2_000_000,
    max_references=5,
    max_reference_bytes=4_000_000,
)
VALUE = b'{"error":false,"value":12}'
PATIENCE_S = 60.0  # of who waits for what must come: no test takes that long, however busy the machine


async def reply_of(channel: RunnerChannel, body: bytes, *, flags: int = 0, timeout_s: float = PATIENCE_S) -> Reply:
    return (await channel.call(Work(frames.CALL, body, flags), timeout_s=timeout_s)).reply


class Connection:
    """One connection of the runner's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():  # uvloop refuses a write then, asyncio drops it
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    async def send_frame(self, kind: int, body: bytes = b"", *, call_id: int = 0, extra: bytes = b"") -> None:
        await self.send(frames.HEADER.pack(kind, b"\0\0\0", len(body), len(extra), call_id) + body + extra)

    async def receive(self) -> frames.Frame:
        header = await self.reader.readexactly(frames.HEADER.size)
        kind, flags, length, extra, call_id = frames.HEADER.unpack(header)
        body = await self.reader.readexactly(length)
        return frames.Frame(kind, int.from_bytes(flags, "big"), call_id, body, await self.reader.readexactly(extra))

    async def closed_by_peer(self) -> None:
        """Wait until the orchestrator's side is closed."""
        with suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def close(self) -> None:
        self.writer.close()


class FakeRunner:
    """Connects to `directory`'s socket."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / SOCKET_NAME
        self._connections: list[Connection] = []
        self.generation = 0

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_unix_connection(self._path))
        self._connections.append(connection)
        return connection

    async def supervisor(self, **members: object) -> Connection:
        """A control connection that has greeted."""
        connection = await self.connect()
        hello = {"role": "supervisor", "protocol": frames.PROTOCOL, "runner": "0", "python": "3", "pid": 1}
        await connection.send_frame(frames.HELLO, json.dumps({**hello, **members}).encode())
        return connection

    async def worker(self, *, generation: int | None = None, **members: object) -> Connection:
        """A call connection that has greeted, as the next generation."""
        self.generation = self.generation + 1 if generation is None else generation
        connection = await self.connect()
        hello = {"role": "worker", "protocol": frames.PROTOCOL, "generation": self.generation, "pid": 2}
        await connection.send_frame(frames.HELLO, json.dumps({**hello, **members}).encode())
        return connection

    async def configured(self) -> tuple[Connection, Connection]:
        """Control and call connections of a runner that has been configured as an honest one is."""
        control = await self.supervisor()
        await control.receive()
        return control, await self.worker()

    async def aclose(self) -> None:
        for connection in self._connections:
            connection.close()
        for connection in self._connections:
            with suppress(OSError):
                await connection.writer.wait_closed()


@asynccontextmanager
async def fake_runner(run_dir: Path) -> AsyncIterator[tuple[Link, FakeRunner]]:
    """A link, and a runner that may connect to it."""
    link = Link.create(run_dir, "0" * 32)
    runner = FakeRunner(link.directory)
    try:
        yield link, runner
    finally:
        link.close()
        await runner.aclose()
        Link.remove(run_dir, "0" * 32)


@asynccontextmanager
async def session(
    run_dir: Path, config: RunnerConfig = CONFIG
) -> AsyncIterator[tuple[SocketChannel, FakeRunner, Connection, Connection]]:
    """A channel ready for calls, the runner behind it, its control and its call connection."""
    async with AsyncExitStack() as stack:
        link, runner = await stack.enter_async_context(fake_runner(run_dir))
        connections = asyncio.create_task(runner.configured())
        channel = await greet(link, PATIENCE_S)
        stack.push_async_callback(channel.aclose)
        await channel.configure(config, timeout_s=PATIENCE_S)
        control, worker = await connections
        yield channel, runner, control, worker


Misbehaviour = Callable[[FakeRunner], Awaitable[None]]
# Wrong before the first call: `greet` or `configure` raise SandboxLost.
WRONG_GREETINGS: dict[str, Misbehaviour] = {}
# Wrong in answer to a call: the call ends in Violation, and the channel with it.
WRONG_REPLIES: dict[str, Misbehaviour] = {}
# Never a whole reply: the call ends in TimedOut.
NO_REPLIES: dict[str, Misbehaviour] = {}


def _named(gallery: dict[str, Misbehaviour]) -> Callable[[Misbehaviour], Misbehaviour]:
    def keep(misbehaviour: Misbehaviour) -> Misbehaviour:
        gallery[misbehaviour.__name__] = misbehaviour  # type: ignore[attr-defined]
        return misbehaviour

    return keep


def _greeting(name: str, *, kind: int = frames.HELLO, body: bytes, call_id: int = 0) -> None:
    async def misbehave(runner: FakeRunner) -> None:
        await (await runner.connect()).send_frame(kind, body, call_id=call_id)

    WRONG_GREETINGS[name] = misbehave


def _reply(name: str, *, kind: int = frames.VALUE, body: bytes, forge_id: int = 0) -> None:
    async def misbehave(runner: FakeRunner) -> None:
        _, worker = await runner.configured()
        call = await worker.receive()
        await worker.send_frame(kind, body, call_id=call.call_id ^ forge_id)

    WRONG_REPLIES[name] = misbehave


_HELLO = {"role": "supervisor", "protocol": frames.PROTOCOL}
_greeting("greets_in_garbage", body=b"\xff\x00{")
_greeting("greets_with_a_list", body=b"[]")
_greeting("greets_with_wrong_types", body=b'{"role": 1, "protocol": "1"}')
_greeting("greets_in_another_protocol_version", body=json.dumps({**_HELLO, "protocol": 1}).encode())
_greeting("greets_in_an_unknown_role", body=json.dumps({**_HELLO, "role": "root"}).encode())
_greeting("greets_with_a_call_id", body=json.dumps(_HELLO).encode(), call_id=1)
_greeting("greets_with_another_kind", kind=frames.VALUE, body=json.dumps(_HELLO).encode())
_greeting("greets_with_an_endless_role", body=json.dumps({**_HELLO, "role": "x" * 100_000}).encode())
_greeting("greets_with_deep_json", body=b'{"role":' + b"[" * 30_000 + b"]" * 30_000 + b"}")
_greeting("greets_with_a_generation_past_all_counting", body=json.dumps({**_HELLO, "generation": 2**63}).encode())


@_named(WRONG_GREETINGS)
async def claims_a_huge_greeting(runner: FakeRunner) -> None:
    await (await runner.connect()).send(frames.HEADER.pack(frames.HELLO, b"\0\0\0", 2**32 - 1, 0, 0))


@_named(WRONG_GREETINGS)
async def greets_with_attachments(runner: FakeRunner) -> None:
    await (await runner.connect()).send(frames.HEADER.pack(frames.HELLO, b"\0\0\0", 2, 1, 0) + b"{}")


@_named(WRONG_GREETINGS)
async def greets_twice(runner: FakeRunner) -> None:
    control = await runner.supervisor()
    await control.send_frame(frames.HELLO, json.dumps(_HELLO).encode())


@_named(WRONG_GREETINGS)
async def greets_as_two_supervisors(runner: FakeRunner) -> None:
    control = await runner.supervisor()
    await control.receive()
    await runner.supervisor()


@_named(WRONG_GREETINGS)
async def hangs_up_after_its_greeting(runner: FakeRunner) -> None:
    (await runner.supervisor()).close()


@_named(WRONG_GREETINGS)
async def hangs_up_after_its_configuration(runner: FakeRunner) -> None:
    control = await runner.supervisor()
    await control.receive()
    control.close()


@_named(WRONG_GREETINGS)
async def replies_before_any_call(runner: FakeRunner) -> None:
    control = await runner.supervisor()
    await control.receive()
    await control.send_frame(frames.VALUE, VALUE, call_id=1)


@_named(WRONG_GREETINGS)
async def greets_silently(runner: FakeRunner) -> None:
    await runner.connect()


@_named(WRONG_GREETINGS)
async def never_has_a_worker(runner: FakeRunner) -> None:
    await (await runner.supervisor()).receive()


_reply("replies_with_another_id", body=VALUE, forge_id=1)
_reply("replies_with_an_unknown_kind", kind=99, body=VALUE)
_reply("replies_with_a_greeting", kind=frames.HELLO, body=b"{}")
_reply("replies_with_a_call", kind=frames.CALL, body=VALUE)
_reply("replies_with_nothing", body=b"")
_reply("replies_with_text", body=b"12")
_reply("replies_with_a_list", body=b"[12]")
_reply("replies_with_two_objects", body=b"{}{}")
_reply("replies_with_a_cut_object", body=b'{"value": 1')
_reply("replies_with_nan", body=b'{"value": NaN}')
_reply("replies_with_infinity", body=b'{"value": -Infinity}')
_reply("replies_with_a_byte_order_mark", body=b'\xef\xbb\xbf{"value": 1}')
_reply("replies_in_utf_16", body='{"value": 1}'.encode("utf-16"))
_reply("replies_with_bad_utf_8", body=b'{"value": "\xff"}')
_reply("replies_with_a_surrogate_in_utf_8", body=b'{"value": "\xed\xa0\x80"}')
_reply("replies_with_a_lone_surrogate", body=b'{"value": "\\ud800"}')
_reply("replies_with_a_raw_control_character", body=b'{"value": "\x00"}')
_reply("replies_with_deep_json", body=b'{"value":' + b"[" * 200_000 + b"]" * 200_000 + b"}")
_reply("replies_over_the_limit", body=b'{"value":"' + b"x" * 2_000_000 + b'"}')
_reply("refuses_with_an_unknown_code", kind=frames.REFUSED, body=b'{"code": "payment_due", "detail": ""}')
_reply("refuses_without_a_detail", kind=frames.REFUSED, body=b'{"code": "not_callable"}')
_reply("refuses_with_wrong_types", kind=frames.REFUSED, body=b'{"code": "not_callable", "detail": {}}')
_reply("refuses_in_garbage", kind=frames.REFUSED, body=b"\xff")
_reply(
    "refuses_with_an_unknown_form",
    kind=frames.REFUSED,
    body=b'{"code": "not_acceptable", "detail": "", "available": ["text/html"]}',
)
_reply(
    "refuses_at_an_impossible_stage", kind=frames.REFUSED, body=b'{"code": "not_callable", "detail": "", "stage": -1}'
)
_reply("tells_what_nobody_asked_for", kind=frames.OUTPUT, body=b'{"stdout": ""}')
_reply("replies_in_a_form_nobody_asked_for", kind=frames.CONTENT, body=b'{"form": "png", "type": "", "ms": 0}')


@_named(WRONG_REPLIES)
async def claims_a_huge_reply(runner: FakeRunner) -> None:
    _, worker = await runner.configured()
    call = await worker.receive()
    await worker.send(frames.HEADER.pack(frames.VALUE, b"\0\0\0", 2**32 - 1, 0, call.call_id))


@_named(WRONG_REPLIES)
async def replies_with_attachments(runner: FakeRunner) -> None:
    _, worker = await runner.configured()
    call = await worker.receive()
    await worker.send(frames.HEADER.pack(frames.VALUE, b"\0\0\0", 2, 2**20, call.call_id) + b"{}")


@_named(WRONG_REPLIES)
async def writes_random_bytes(runner: FakeRunner) -> None:
    _, worker = await runner.configured()
    await worker.receive()
    await worker.send(bytes(range(256)) * 64)


@_named(WRONG_REPLIES)
async def replies_on_control(runner: FakeRunner) -> None:
    control, worker = await runner.configured()
    call = await worker.receive()
    await control.send_frame(frames.VALUE, VALUE, call_id=call.call_id)


@_named(WRONG_REPLIES)
async def hangs_up_control(runner: FakeRunner) -> None:
    control, worker = await runner.configured()
    await worker.receive()
    control.close()


@_named(WRONG_REPLIES)
async def reports_an_impossible_end(runner: FakeRunner) -> None:
    control, worker = await runner.configured()
    await worker.receive()
    await control.send_frame(frames.EXITED, b'{"code": 99999999999999999999999, "signal": null}')


@_named(WRONG_REPLIES)
async def reports_an_impossible_place(runner: FakeRunner) -> None:
    control, worker = await runner.configured()
    await worker.receive()
    await control.send_frame(frames.EXITED, b'{"code": 1, "signal": null, "stage": 1, "item": 99999999999999999999999}')


@_named(WRONG_REPLIES)
async def reports_a_place_that_is_a_text(runner: FakeRunner) -> None:
    control, worker = await runner.configured()
    await worker.receive()
    await control.send_frame(frames.EXITED, b'{"code": 1, "signal": null, "stage": "pipe\\": 1, \\"x"}')


@_named(WRONG_REPLIES)
async def reports_without_end(runner: FakeRunner) -> None:
    control, worker = await runner.configured()
    await worker.receive()
    report = frames.encode(frames.EXITED, b'{"code": 0, "signal": null}')
    while True:
        await control.send(report * 1000)


@_named(NO_REPLIES)
async def is_silent(runner: FakeRunner) -> None:
    _, worker = await runner.configured()
    await worker.receive()


@_named(NO_REPLIES)
async def never_reads(runner: FakeRunner) -> None:
    await runner.configured()


@_named(NO_REPLIES)
async def claims_much_and_sends_little(runner: FakeRunner) -> None:
    _, worker = await runner.configured()
    call = await worker.receive()
    await worker.send(frames.HEADER.pack(frames.VALUE, b"\0\0\0", CONFIG.max_reply_bytes, 0, call.call_id) + b"{")


@_named(NO_REPLIES)
async def dribbles(runner: FakeRunner) -> None:
    _, worker = await runner.configured()
    call = await worker.receive()
    for byte in frames.encode(frames.VALUE, b'{"value":"' + b"x" * 900_000, call_id=call.call_id):
        await worker.send(bytes([byte]))
        await asyncio.sleep(0.001)
