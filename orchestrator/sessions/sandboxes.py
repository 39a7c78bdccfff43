"""Sandboxes for sessions: started, configured, taken up again and stopped, through the backend."""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from orchestrator.errors import KodouError
from orchestrator.records import Resources, Session, SessionState
from orchestrator.sandboxes.backend import Image, Sandbox, SandboxBackend, SandboxSpec
from orchestrator.sandboxes.channel import RunnerChannel, RunnerConfig
from orchestrator.sandboxes.labels import INSTANCE_LABEL, POOLED, SESSION_LABEL
from orchestrator.sessions.background import Background
from orchestrator.sessions.pool import Kind, Pool, Warm
from orchestrator.sessions.shared import SHARED, SharedSandboxes, is_slot
from orchestrator.settings import Settings
from orchestrator.telemetry import log
from orchestrator.turns import Turns

T = TypeVar("T")

_OWNER_DIGITS = 16
LEAST_CONNECT_S = 1.0  # for the runner to answer, when the engine took all the time there was


class Sandboxes:
    """What sessions know of the backend. At most `max_starts` start at once."""

    def __init__(
        self,
        settings: Settings,
        backend: SandboxBackend,
        instance: str,
        background: Background,
        sessions: Callable[[], int],
    ) -> None:
        """`sessions`: how many there are."""
        self.instance = instance
        self._settings = settings
        self._backend = backend
        self._background = background
        self._starts = Turns(settings.max_starts)
        self.pool = Pool(settings, self, sessions)
        self.shared: SharedSandboxes | None = None
        if settings.share_sandboxes == "owner":
            labels = {SESSION_LABEL: SHARED, INSTANCE_LABEL: instance}
            self.shared = SharedSandboxes(settings, backend, labels, background)

    async def image(self, environment_id: str) -> Image | None:
        return await self._backend.images.find(environment_id)

    def claim(self, image: Image, session: Session, distributions: tuple[str, ...]) -> Warm | None:
        """A warm sandbox with these imported, if there is one."""
        return None if self._sharing(session) else self.pool.claim(image, session, distributions)

    async def start(
        self, image: Image, session: Session, distributions: tuple[str, ...] = ()
    ) -> tuple[Sandbox, RunnerChannel]:
        """A fresh sandbox with its runner configured, or a slot of one that is shared, where `distributions` are imported
        already. Whoever is cancelled here leaves nothing behind. Raises `NotFound` (image), `SandboxLost`,
        `EngineUnavailable`."""
        await self._starts.acquire(session.owner)
        return await self._started(self._start(image, session, distributions))

    # --- for the pool ---

    async def start_warm(self, image: Image, kind: Kind) -> Warm:
        await self._starts.acquire_spare()
        sandbox, channel = await self._started(self._start_bare(image, kind))
        warm = Warm(sandbox, channel, 0)
        # With more processors a library's threads, which no fork takes along, are worth more than its import.
        distributions = kind.distributions if kind.resources.cpus <= 1 else ()
        timeout_s = self._settings.sandbox_start_timeout_s
        try:
            bytes = await channel.preload(distributions, timeout_s=timeout_s)
            # As any session of its kind will have it: nothing is left to be done when one comes.
            await channel.configure(self._config(kind.resources), timeout_s=timeout_s)
        except BaseException:
            self._background.spawn(self.stop_warm(warm))
            raise
        return replace(warm, bytes=bytes)

    async def stop_warm(self, warm: Warm) -> None:
        await warm.channel.aclose()
        await self.stop(warm.sandbox)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._background.spawn(work)

    # ---

    async def connect(self, sandbox: Sandbox, session: Session, *, timeout_s: float) -> RunnerChannel:
        """The configured channel to a sandbox that runs. Raises `SandboxLost`, `EngineUnavailable`."""
        deadline = time.monotonic() + timeout_s
        channel = await self._backend.connect(sandbox, timeout_s=timeout_s)
        await self._configure(channel, session, timeout_s=max(deadline - time.monotonic(), LEAST_CONNECT_S))
        return channel

    async def _configure(self, channel: RunnerChannel, session: Session, *, timeout_s: float) -> None:
        try:
            await channel.configure(self._config(session.resources, session), timeout_s=timeout_s)
        except BaseException:
            await channel.aclose()
            raise

    async def freeze(self, sandbox: Sandbox) -> bool:
        """As the backend does."""
        return await self._backend.freeze(sandbox)

    async def thaw(self, sandbox: Sandbox) -> None:
        """As the backend does."""
        await self._backend.thaw(sandbox)

    async def stop(self, sandbox: Sandbox) -> None:
        """End it; already gone is success. Raises `EngineUnavailable`."""
        if sandbox.backend != self._backend.name:
            # From before the settings named another backend. Its runner ends itself, since nobody connects (`orphan_s`).
            log.warning(
                "a sandbox of another backend is left to end itself", sandbox=sandbox.id, backend=sandbox.backend
            )
            return
        if not is_slot(sandbox):
            await self._backend.stop(sandbox)
        elif self.shared is not None:
            await self.shared.close(sandbox)
        # Else it was of an earlier server, whose shared sandboxes have ended.

    async def owned(self) -> list[Sandbox]:
        """All sandboxes that this server, now or before a crash, has started for sessions, warm ones too."""
        owned = await self._backend.owned({INSTANCE_LABEL: self.instance})
        return [sandbox for sandbox in owned if SESSION_LABEL in sandbox.labels]

    def _sharing(self, session: Session) -> SharedSandboxes | None:
        """Where this session is to have a slot; None: it is to have a sandbox of its own."""
        return self.shared if self.shared is not None and self.shared.takes(session) else None

    async def _started(
        self, start: Coroutine[Any, Any, tuple[Sandbox, RunnerChannel]]
    ) -> tuple[Sandbox, RunnerChannel]:
        """What `start` returns; its turn ends with it."""
        task = asyncio.create_task(start)
        task.add_done_callback(lambda _: self._starts.release())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # Not cancelled with us: between the engine's start and its answer there is no handle to stop.
            self._background.spawn(self._stop_late(task))
            raise

    async def _start_bare(self, image: Image, kind: Kind) -> tuple[Sandbox, RunnerChannel]:
        sandbox = await self._backend.start(
            image,
            SandboxSpec(resources=kind.resources),
            labels={SESSION_LABEL: POOLED, INSTANCE_LABEL: self.instance},
        )
        try:
            return sandbox, await self._backend.connect(sandbox, timeout_s=self._settings.sandbox_start_timeout_s)
        except BaseException:
            self._background.spawn(self.stop(sandbox))
            raise

    async def _start(
        self, image: Image, session: Session, distributions: tuple[str, ...]
    ) -> tuple[Sandbox, RunnerChannel]:
        deadline = time.monotonic() + self._settings.sandbox_start_timeout_s
        shared = self._sharing(session)
        if shared is not None:
            return await self._start_shared(shared, image, session, distributions)
        sandbox = await self._backend.start(
            image,
            SandboxSpec(resources=session.resources, network=session.network, owner=_digest(session.owner)),
            labels={SESSION_LABEL: session.id, INSTANCE_LABEL: self.instance},
        )
        try:
            left = max(deadline - time.monotonic(), LEAST_CONNECT_S)
            return sandbox, await self.connect(sandbox, session, timeout_s=left)
        except BaseException:
            self._background.spawn(self.stop(sandbox))
            raise

    async def _start_shared(
        self, shared: SharedSandboxes, image: Image, session: Session, distributions: tuple[str, ...]
    ) -> tuple[Sandbox, RunnerChannel]:
        slot, channel = await shared.open(image, session, distributions)
        try:
            await self._configure(channel, session, timeout_s=self._settings.sandbox_start_timeout_s)
        except BaseException:
            self._background.spawn(self.stop(slot))
            raise
        return slot, channel

    async def _stop_late(self, task: asyncio.Task[tuple[Sandbox, RunnerChannel]]) -> None:
        try:
            sandbox, channel = await task
        except KodouError:
            return  # it has cleaned up
        await channel.aclose()
        await self.stop(sandbox)

    def _config(self, resources: Resources, session: Session | None = None) -> RunnerConfig:
        """Of a session, or of one that is yet to come."""
        return RunnerConfig(
            env={} if session is None else dict(session.env),
            max_reply_bytes=self._settings.max_reply_bytes,
            max_content_bytes=self._settings.max_content_bytes,
            max_references=self._settings.max_references,
            max_reference_bytes=self._settings.max_reference_mb * 1024 * 1024,
            first=session is None or session.state is SessionState.STARTING,
            max_output_bytes=self._settings.max_output_bytes,
            max_items=self._settings.max_items,
            orphan_s=self._settings.orphan_s,
            fsize_bytes=resources.disk_mb * 1024 * 1024,
            egress=session is not None and session.network == "egress",
        )


def _digest(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()[:_OWNER_DIGITS]


def kept(sandbox: Sandbox | None, instance: str) -> Mapping[str, str]:
    """How a session's record holds its sandbox: whose it is, and the handle once there is one."""
    if sandbox is None:
        return {"instance": instance}
    return {
        "instance": instance,
        "id": sandbox.id,
        "backend": sandbox.backend,
        "environment_id": sandbox.environment_id,
        "data": json.dumps(dict(sandbox.data)),
        "labels": json.dumps(dict(sandbox.labels)),
    }


def handle(record: Mapping[str, str]) -> Sandbox | None:
    """The handle in a session's record; None before the sandbox has started."""
    if "id" not in record:
        return None
    return Sandbox(
        id=record["id"],
        backend=record["backend"],
        environment_id=record["environment_id"],
        data=json.loads(record["data"]),
        labels=json.loads(record["labels"]),
    )
