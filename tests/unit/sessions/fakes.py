"""A backend whose sandboxes are objects in this process, with doors to stage failures and races at."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from orchestrator.errors import EngineUnavailable, KodouError, NotFound, SandboxLost
from orchestrator.sandboxes.backend import Image, Sandbox, SandboxSpec, SandboxStatus
from orchestrator.sandboxes.channel import RunnerConfig
from orchestrator.sandboxes.events import Events
from orchestrator.sandboxes.replies import Reply, Value, Violation
from orchestrator.sandboxes.work import Run, Work


class FakeChannel:
    """Answers each call with what was asked, and which sandbox answered. One call at a time, as the contract says."""

    def __init__(self, sandbox_id: str, backend: "FakeBackend") -> None:
        self.sandbox_id = sandbox_id
        self.backend = backend
        self.config: RunnerConfig | None = None
        self.preloaded: tuple[str, ...] | None = None
        self.closed = False
        self.entered = asyncio.Event()  # a call runs
        self.hold: asyncio.Event | None = None  # calls wait for it
        self.next_reply: Reply | None = None
        self._turn = asyncio.Lock()
        self._dead = asyncio.Event()

    async def configure(self, config: RunnerConfig, *, timeout_s: float) -> None:
        if self.backend.configure_error is not None:
            raise self.backend.configure_error
        self.config = config

    async def preload(self, distributions: Sequence[str], *, timeout_s: float) -> int:
        if self.backend.preload_error is not None:
            raise self.backend.preload_error
        if self.backend.preload_gate is not None:
            await self.backend.preload_gate.wait()
        self.preloaded = tuple(distributions)
        return 0

    async def call(
        self, work: Work, *, timeout_s: float, until: float | None = None, events: Events | None = None
    ) -> Run:
        return Run(await self._reply(work.body), 0.0, 0.0)

    async def _reply(self, body: bytes) -> Reply:
        async with self._turn:
            if not self.alive():
                return Violation("the runner is gone", sent=False)
            self.entered.set()
            assert self.sandbox_id not in self.backend.frozen, "a call went to a frozen sandbox"
            if self.hold is not None:
                dead, held = asyncio.create_task(self._dead.wait()), asyncio.create_task(self.hold.wait())
                try:
                    await asyncio.wait([dead, held], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    dead.cancel()
                    held.cancel()
                if not self.alive():
                    return Violation("the runner is gone")
            if self.next_reply is not None:
                reply, self.next_reply = self.next_reply, None
                return reply
            return Value(self.sandbox_id.encode() + b":" + body)

    def alive(self) -> bool:
        return not self.closed and self.sandbox_id in self.backend.running

    def idle(self) -> bool:
        return not self._turn.locked()

    def killed(self) -> None:
        self._dead.set()

    async def aclose(self) -> None:
        self.closed = True
        self._dead.set()


class FakeImages:
    def __init__(self) -> None:
        self.gone: set[str] = set()

    async def find(self, environment_id: str) -> Image | None:
        return None if environment_id in self.gone else image(environment_id)


class FakeBackend:
    """The engine: it outlives managers, as a real one outlives the server."""

    name = "fake"

    def __init__(self) -> None:
        self.images = FakeImages()
        self.sandboxes: dict[str, Sandbox] = {}  # what the engine knows of
        self.running: set[str] = set()
        self.channels: dict[str, FakeChannel] = {}  # the newest of each sandbox
        self.specs: list[SandboxSpec] = []
        self.starting = 0
        self.most_starting = 0
        self.stops = 0
        self.start_gate: asyncio.Event | None = None
        self.stop_gate: asyncio.Event | None = None
        self.start_entered = asyncio.Event()
        self.stopped = asyncio.Event()
        self.start_error: KodouError | None = None
        self.connect_error: KodouError | None = None
        self.configure_error: KodouError | None = None
        self.stop_error: KodouError | None = None
        self.preload_error: KodouError | None = None
        self.preload_gate: asyncio.Event | None = None
        self.frozen: set[str] = set()
        self.freezes = True  # what freezing says
        self.freeze_gate: asyncio.Event | None = None
        self.thaw_gate: asyncio.Event | None = None
        self.freeze_entered = asyncio.Event()
        self.freeze_error: KodouError | None = None
        self.thaw_error: KodouError | None = None
        self.thaws = 0

    async def start(self, image: Image, spec: SandboxSpec, *, labels: Mapping[str, str]) -> Sandbox:
        self.starting += 1
        self.most_starting = max(self.most_starting, self.starting)
        self.start_entered.set()
        try:
            if self.start_gate is not None:
                await self.start_gate.wait()
            if self.start_error is not None:
                raise self.start_error
            if image.environment_id in self.images.gone:
                msg = "no such image"
                raise NotFound(msg)
            sandbox = Sandbox(
                id=secrets.token_hex(16),
                backend=self.name,
                environment_id=image.environment_id,
                data={"pid": "1"},
                labels=dict(labels),
            )
            self.specs.append(spec)
            self.sandboxes[sandbox.id] = sandbox
            self.running.add(sandbox.id)
            return sandbox
        finally:
            self.starting -= 1

    async def connect(self, sandbox: Sandbox, *, timeout_s: float) -> FakeChannel:
        if self.connect_error is not None:
            raise self.connect_error
        if sandbox.id not in self.running:
            msg = "the sandbox does not run"
            raise SandboxLost(msg)
        channel = self.channels[sandbox.id] = FakeChannel(sandbox.id, self)
        return channel

    async def inspect(self, sandbox: Sandbox) -> SandboxStatus:
        return SandboxStatus(running=sandbox.id in self.running)

    async def freeze(self, sandbox: Sandbox) -> bool:
        self.freeze_entered.set()
        if self.freeze_gate is not None:
            await self.freeze_gate.wait()
        if self.freezes:
            self.frozen.add(sandbox.id)
        if self.freeze_error is not None:
            raise self.freeze_error
        return self.freezes

    async def thaw(self, sandbox: Sandbox) -> None:
        self.thaws += 1
        if self.thaw_gate is not None:
            await self.thaw_gate.wait()
        if self.thaw_error is not None:
            raise self.thaw_error
        self.frozen.discard(sandbox.id)

    async def stop(self, sandbox: Sandbox, *, grace_s: float = 0.0) -> None:
        if self.stop_gate is not None:
            await self.stop_gate.wait()
        if self.stop_error is not None:
            raise self.stop_error
        self.stops += 1
        self.stopped.set()
        self.kill(sandbox.id)
        self.sandboxes.pop(sandbox.id, None)

    async def owned(self, labels: Mapping[str, str]) -> list[Sandbox]:
        return [found for found in self.sandboxes.values() if labels.items() <= found.labels.items()]

    async def aclose(self) -> None:
        pass

    def kill(self, sandbox_id: str) -> None:
        """The sandbox's processes end; the engine still knows it."""
        self.running.discard(sandbox_id)
        if sandbox_id in self.channels:
            self.channels[sandbox_id].killed()

    def of_session(self, session_id: str) -> list[Sandbox]:
        return [found for found in self.sandboxes.values() if found.labels["io.kodou.session"] == session_id]


def image(environment_id: str) -> Image:
    return Image(environment_id, f"img:{environment_id}", 1, datetime(2030, 1, 1, tzinfo=UTC), {})


def engine_gone() -> EngineUnavailable:
    return EngineUnavailable("the engine does not answer")
