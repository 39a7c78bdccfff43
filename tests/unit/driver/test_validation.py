"""What a driver lets through: random and hostile messages get nothing made, and never end the driver."""

import asyncio
import math
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.driver import messages, wire
from orchestrator.driver.door import opened
from orchestrator.driver.faults import raised, told
from orchestrator.driver.server import DriverServer
from orchestrator.driver.service import Service
from orchestrator.environments.lock import Lock, environment_id
from orchestrator.errors import (
    BuildFailed,
    Defect,
    EngineUnavailable,
    InvalidRequest,
    KodouError,
    NotFound,
    SandboxLost,
)
from orchestrator.sandboxes.backend import BuildOrder, Image, Interpreter, Sandbox, SandboxSpec, SandboxStatus
from orchestrator.sandboxes.link import Link
from orchestrator.settings import Settings

pytestmark = pytest.mark.anyio
ID = "0" * 32
ENVIRONMENT = "py3.12-0123456789abcdef01234567"
PYTHON = Interpreter("python", "3.12.4", "/secret/python", "a" * 64, "x86_64-manylinux_2_36", {})
START = {"verb": "start", "environment_id": ENVIRONMENT, "memory_mb": 64, "cpus": 1.0, "pids": 8, "disk_mb": 1}
START |= {"network": "none", "labels": {}}


class Recording:
    """A backend, with its images, that makes nothing and remembers what it was asked to make."""

    name = "recording"

    def __init__(self) -> None:
        self.images = self
        self.asked: list[object] = []
        self.sandbox = Sandbox(ID, self.name, ENVIRONMENT, {"container": "secret"}, {})
        self.let: asyncio.Event | None = None  # a start waits for it
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def start(self, image: Image, spec: SandboxSpec, *, labels: Mapping[str, str]) -> Sandbox:
        self.asked.append((image.ref, spec, dict(labels)))
        self.begun.set()
        if self.let is not None:
            try:
                await self.let.wait()
            except asyncio.CancelledError:
                self.ended.set()
                raise
        return self.sandbox

    async def open_link(self, sandbox: Sandbox) -> Link:
        raise SandboxLost(sandbox.id)

    async def resume(self, sandbox: Sandbox) -> None: ...

    async def inspect(self, sandbox: Sandbox) -> SandboxStatus:
        return SandboxStatus(running=True)

    async def freeze(self, sandbox: Sandbox) -> bool:
        self.asked.append(sandbox.id)
        return True

    async def thaw(self, sandbox: Sandbox) -> None:
        self.asked.append(sandbox.id)

    async def stop(self, sandbox: Sandbox, *, grace_s: float = 0.0) -> None:
        self.asked.append(sandbox.id)

    async def owned(self, labels: Mapping[str, str]) -> list[Sandbox]:
        return [self.sandbox]

    async def aclose(self) -> None: ...

    async def prepare(self) -> None: ...

    async def interpreters(self) -> list[Interpreter]:
        return [PYTHON]

    async def lock_in_sandbox(self, interpreter: Interpreter, requirements: Any, *, timeout_s: float) -> str:
        self.asked.append((interpreter.digest, tuple(requirements)))
        return ""

    async def build(self, order: BuildOrder) -> AsyncIterator[Any]:
        self.asked.append(order)
        return
        yield

    async def find(self, environment_id: str) -> Image | None:
        if environment_id != ENVIRONMENT:
            return None
        return Image(environment_id, "the-ref", 1, datetime.now(UTC), {})

    async def list(self) -> list[Image]:
        return []

    async def remove(self, image: Image) -> bool:
        self.asked.append(image.environment_id)
        return True


class Served:
    """A driver in this process: its real socket and decoder, over a backend that records."""

    def __init__(self, path: Path, backend: Recording, service: Service) -> None:
        self.path = path
        self.backend = backend
        self.service = service

    async def say(self, body: bytes) -> messages.Reply:
        with await wire.connected(self.path) as connection:
            await wire.send(connection, body)
            return messages.read_reply(await wire.receive(connection, messages.MAX_REPLY_BYTES))

    async def ask(self, **members: object) -> messages.Reply:
        return await self.say(msgspec.msgpack.encode(members))


@asynccontextmanager
async def served(**others: object) -> AsyncIterator[Served]:
    with tempfile.TemporaryDirectory() as name:
        own = Settings(data_dir=Path(name), driver_socket=Path(name, "socket"), **others)  # type: ignore[arg-type]
        backend = Recording()
        with opened(Path(name, "socket"), own) as door:
            service = Service(own, backend)  # type: ignore[arg-type]
            server = DriverServer(service, door)
            accepting = asyncio.create_task(server.accept())
            try:
                yield Served(Path(name, "socket"), backend, service)
            finally:
                accepting.cancel()
                await asyncio.gather(accepting, return_exceptions=True)
                await server.aclose()


@pytest.fixture
async def driver() -> AsyncIterator[Served]:
    async with served() as found:
        yield found


# --- what is refused ---

TEXTS = [
    "",
    "../../etc",
    "/etc/passwd",
    f"{ENVIRONMENT}\n",
    "a b",
    "kodou/env:x",
    "é",
    "x" * 101,
    "\0",
    "-rf",
    None,
    7,
    [],
]


@pytest.mark.parametrize(
    "changes",
    [
        *({"environment_id": text} for text in TEXTS),
        *({"labels": {"session": text}} for text in TEXTS if text is not None),
        {"labels": {"io.kodou.kind": "builder"}},
        {"labels": {"instance": "not hex"}},
        {"labels": None},
        {"image": "alpine"},
        {"privileged": True},
        {"mounts": [{"Source": "/", "Target": "/host"}]},
        {"nofile": 1_000_000},
        {"network": "host"},
        {"network": "container:abc"},
        {"network": "egress"},
        {"memory_mb": 10_000_000},
        {"memory_mb": -1},
        {"memory_mb": 0},
        {"memory_mb": "64"},
        {"memory_mb": 2**70},
        {"cpus": 1e9},
        {"cpus": math.nan},
        {"cpus": math.inf},
        {"cpus": 0.0},
        {"pids": 1_000_000},
        {"disk_mb": 1_000_000},
        {"owner": "eve"},
        {"owner": "a" * 17},
        {"verb": "exec"},
        {"verb": None},
    ],
    ids=lambda changes: repr(changes)[:60],
)
async def test_a_start_with_anything_unforeseen_in_it_starts_nothing(
    driver: Served, changes: dict[str, object]
) -> None:
    try:
        body = msgspec.msgpack.encode({**START, **changes})
    except OverflowError:  # a number that no message can hold
        return
    reply = await driver.say(body)
    assert isinstance(reply, messages.Failed)
    assert driver.backend.asked == []


async def test_what_is_foreseen_starts_with_fixed_options(driver: Served) -> None:
    labels = {"session": "s1", "instance": "0" * 16}
    reply = await driver.ask(**{**START, "labels": labels})
    assert isinstance(reply, messages.Made)
    ((ref, spec, given_labels),) = driver.backend.asked  # type: ignore[misc]
    assert (ref, spec.network, spec.nofile) == ("the-ref", "none", SandboxSpec(spec.resources).nofile)
    assert given_labels == {"io.kodou.session": "s1", "io.kodou.server": "0" * 16}
    assert "secret" not in repr(reply)


async def test_only_the_drivers_own_sandboxes_can_be_named(driver: Served) -> None:
    foreign = "f" * 32
    assert isinstance(await driver.ask(verb="stop", sandbox_id=foreign, grace_s=0.0), messages.Done)
    assert driver.backend.asked == []
    status = await driver.ask(verb="inspect", sandbox_id=foreign)
    assert isinstance(status, messages.Status)
    assert status.status.reason == "gone"
    link = await driver.ask(verb="open_link", sandbox_id=foreign)
    assert isinstance(link, messages.Failed)
    assert link.code == "sandbox_lost"
    for name in ("kodou-build-x", "my-database", f"{ID}\n", ID.upper() + "G", "../run"):
        assert isinstance(await driver.ask(verb="stop", sandbox_id=name, grace_s=0.0), messages.Failed)
    assert driver.backend.asked == []


async def test_no_more_sandboxes_than_settings_allow() -> None:
    async with served(max_sessions=1, max_starts=1) as driver:
        driver.backend.let = asyncio.Event()
        waiting = asyncio.create_task(driver.ask(**START))  # one runs, one starts
        await asyncio.wait_for(driver.backend.begun.wait(), 60)
        await driver.ask(verb="inspect", sandbox_id=ID)
        refused = await driver.ask(**START)
        assert isinstance(refused, messages.Failed)
        assert refused.code == "engine_unavailable"
        assert len(driver.backend.asked) == 1
        driver.backend.let.set()
        assert isinstance(await waiting, messages.Made)


async def test_a_crowd_of_one_owner_keeps_another_waiting_for_one_start_only() -> None:
    async with served(max_starts=1) as driver:
        driver.backend.let = asyncio.Event()
        starts = []
        for number, owner in enumerate("aaaab", start=1):
            starts.append(asyncio.create_task(driver.ask(**{**START, "owner": owner, "memory_mb": number})))
            while driver.service._starting < number:  # noqa: ASYNC110 - its turn to wait comes by the socket
                await asyncio.sleep(0.001)
        driver.backend.let.set()
        assert all(isinstance(made, messages.Made) for made in await asyncio.gather(*starts))
        asked = [spec.resources.memory_mb for _, spec, _ in driver.backend.asked]  # type: ignore[misc]
        assert asked.index(5) == 2  # after the one that ran and the one that was next


async def test_an_environments_name_holds_nothing_but_what_it_stands_for(driver: Served) -> None:
    nothing = environment_id(Lock("", {}, ()), PYTHON)
    build = {"verb": "build", "interpreter": PYTHON.digest, "files": [], "timeout_s": 10.0}
    other = await driver.ask(**build, environment_id=ENVIRONMENT)
    assert isinstance(other, messages.Failed)
    assert other.code == "invalid_request"
    assert driver.backend.asked == []
    assert isinstance(await driver.ask(**build, environment_id=nothing), messages.Done)
    (order,) = driver.backend.asked
    assert isinstance(order, BuildOrder)
    assert order.labels["io.kodou.environment"] == order.environment_id == nothing


@pytest.mark.parametrize(
    "requirement", ["/etc/passwd", "-r /etc/passwd", "x @ file:///etc/passwd", "--index-url=http://x", "a\nb", "a;b"]
)
async def test_what_is_no_requirement_is_never_resolved(driver: Served, requirement: str) -> None:
    reply = await driver.ask(verb="lock", interpreter=PYTHON.digest, requirements=[requirement], timeout_s=1.0)
    assert isinstance(reply, messages.Failed)
    assert driver.backend.asked == []


async def test_where_an_interpreter_lies_is_not_told(driver: Served) -> None:
    reply = await driver.ask(verb="offered")
    assert isinstance(reply, messages.Interpreters)
    assert "secret" not in repr(reply)


# --- whatever comes ---

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=50)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
VERBS = st.sampled_from([verb.__struct_config__.tag for verb in messages.Verb.__args__])  # type: ignore[attr-defined]
MEMBERS = st.sampled_from(sorted({name for verb in messages.Verb.__args__ for name in verb.__struct_fields__}))  # type: ignore[attr-defined]
ALMOST = st.builds(lambda verb, rest: {**rest, "verb": verb}, VERBS, st.dictionaries(MEMBERS, VALUES, max_size=8))


def _encoded(value: object) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except UnicodeEncodeError:  # a lone surrogate
        return b"\xc1"


def _within(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 120))  # type: ignore[arg-type]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | VALUES.map(_encoded) | ALMOST.map(_encoded))
def test_whatever_is_read_is_a_verb_or_malformed(body: bytes) -> None:
    try:
        verb = messages.read_verb(body)
    except messages.Malformed:
        return
    assert messages.read_verb(messages.encode(verb)) == verb or "nan" in repr(verb)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.binary(max_size=200) | ALMOST.map(_encoded), min_size=1, max_size=20))
def test_hostile_messages_never_end_the_driver_nor_make_anything(bodies: list[bytes]) -> None:
    async def said() -> None:
        async with served() as driver:
            for body in bodies:
                await driver.say(body)
            assert await driver.say(messages.encode(messages.Hello())) == messages.Welcome("recording")
            assert [each for each in driver.backend.asked if isinstance(each, tuple | BuildOrder)] == []

    _within(said)


async def test_half_messages_huge_ones_and_silence_end_nothing_but_their_connection(driver: Served) -> None:
    connections = []
    for data in (b"", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\x64half", b"GET / HTTP/1.1\r\n\r\n"):
        for _ in range(10):
            connection = await wire.connected(driver.path)
            connections.append(connection)
            if data:
                await asyncio.get_running_loop().sock_sendall(connection, data)
    huge = await wire.connected(driver.path)
    connections.append(huge)
    await asyncio.get_running_loop().sock_sendall(huge, (messages.MAX_VERB_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises((EOFError, ConnectionResetError)):  # at once, whatever it would go on to say
        await asyncio.wait_for(wire.receive(huge, 100), 60)
    assert await driver.say(messages.encode(messages.Hello())) == messages.Welcome("recording")
    for connection in connections:
        connection.close()


async def test_a_descriptor_that_comes_with_a_verb_is_not_taken(driver: Served) -> None:
    theirs, ours = socket.socketpair()
    with theirs, ours, await wire.connected(driver.path) as connection:
        wire.send_with_descriptor(connection, messages.encode(messages.Hello()), theirs.fileno())
        assert messages.read_reply(await wire.receive(connection, 1000)) == messages.Welcome("recording")
        theirs.close()
        ours.settimeout(60)
        assert ours.recv(1) == b""  # nobody else holds the other end


async def test_who_goes_away_ends_what_it_asked_for(driver: Served) -> None:
    driver.backend.let = asyncio.Event()
    with await wire.connected(driver.path) as connection:
        await wire.send(connection, msgspec.msgpack.encode(START))
        await asyncio.wait_for(driver.backend.begun.wait(), 60)
    await asyncio.wait_for(driver.backend.ended.wait(), 60)


# --- errors ---


@pytest.mark.parametrize(
    "error",
    [
        NotFound("gone"),
        EngineUnavailable("later", after_s=7),
        SandboxLost("lost"),
        InvalidRequest("wrong", field="network"),
        BuildFailed("failed", log_tail="the end"),
    ],
    ids=lambda error: error.code,
)
def test_an_error_comes_over_as_it_was(error: KodouError) -> None:
    again = raised(told(error))
    assert (type(again), again.detail, vars(again)) == (type(error), error.detail, vars(error))


def test_a_defect_keeps_its_details() -> None:
    assert "/secret" not in repr(told(Defect("/secret/path")))
    assert type(raised(told(Defect("/secret/path")))) is Defect
