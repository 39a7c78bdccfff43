"""The verbs, carried out on a backend. Who asks may have been taken over: what the types of `messages.py` leave open is
held here against the driver's own settings, and everything is looked up among what the driver itself has made."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol, assert_never

from orchestrator.driver import messages
from orchestrator.driver.messages import Build, Labels, Made, Reply, Start, Verb
from orchestrator.driver.packages import copied
from orchestrator.environments.lock import Lock, LockedFile, environment_id
from orchestrator.environments.requirements import canonical
from orchestrator.errors import EngineUnavailable, InvalidRequest, KodouError, NotFound, SandboxLost
from orchestrator.records import Resources
from orchestrator.sandboxes.backend import (
    BuildEvent,
    BuildOrder,
    Interpreter,
    Sandbox,
    SandboxBackend,
    SandboxSpec,
    SandboxStatus,
)
from orchestrator.sandboxes.labels import SESSION_LABEL, image_labels
from orchestrator.sandboxes.link import Link
from orchestrator.settings import Settings
from orchestrator.telemetry import log
from orchestrator.turns import Turns

# Of the server that asked. Not the label that a server's own sandboxes carry: there it is the driver's, on Docker.
SERVER_LABEL = "io.kodou.server"
_GROWTH = 2  # of a dependency's text when it is written in its canonical form, at most
_GONE = SandboxStatus(running=False, reason="gone")


class LinkingBackend(SandboxBackend, Protocol):
    """A backend whose links another process can be given."""

    async def open_link(self, sandbox: Sandbox) -> Link:
        """What the sandbox's runner connects to; the caller owns it. Raises `SandboxLost`."""

    async def resume(self, sandbox: Sandbox) -> None:
        """Do for it again what an earlier process did as long as it ran. Raises `EngineUnavailable`."""


class Service:
    """Carries out verbs; knows no connections. Belongs to one event loop."""

    def __init__(self, settings: Settings, backend: LinkingBackend) -> None:
        self._settings = settings
        self._backend = backend
        self._images = backend.images
        self._sandboxes: dict[str, Sandbox] = {}  # those that were seen, which are all as long as none is missed
        self._starting = 0
        self._starts = Turns(settings.max_starts)
        self._builds = asyncio.Semaphore(settings.max_builds)
        self._preparing: asyncio.Task[None] | None = None

    async def answer(self, verb: Verb) -> Reply:
        """Carry out a verb that has one reply and no descriptor. Raises what the backend does, and `InvalidRequest`."""
        match verb:
            case messages.Hello():
                return messages.Welcome(self._backend.name)
            case Start():
                return _made(await self._start(verb))
            case messages.Inspect():
                return messages.Status(await self._inspect(verb.sandbox_id))
            case messages.Freeze():
                return messages.Frozen(await self._backend.freeze(await self._there(verb.sandbox_id)))
            case messages.Thaw():
                await self._backend.thaw(await self._there(verb.sandbox_id))
                return messages.Done()
            case messages.Stop():
                await self._stop(verb)
                return messages.Done()
            case messages.Owned():
                return messages.Sandboxes(tuple(map(_made, await self._backend.owned(_written(verb.labels)))))
            case messages.Prepare():
                await self.prepare()
                return messages.Done()
            case messages.Offered():
                return messages.Interpreters(tuple(map(_described, await self.interpreters())))
            case messages.Lock():
                return messages.Locked(await self._lock(verb))
            case messages.Find():
                return messages.Found(await self._images.find(verb.environment_id))
            case messages.ListImages():
                return messages.Images(tuple(await self._images.list()))
            case messages.Remove():
                return messages.Removed(await self._remove(verb.environment_id))
            case messages.OpenLink() | Build():
                msg = f"{type(verb).__name__} has more than one reply"
                raise TypeError(msg)
            case _:
                assert_never(verb)

    async def open_link(self, sandbox_id: str) -> Link:
        """The link of one of ours; the caller owns it. Raises `SandboxLost`."""
        return await self._backend.open_link(await self._there(sandbox_id))

    async def build(self, verb: Build) -> AsyncIterator[BuildEvent]:
        """Build an environment from files of the wheel store. When the iterator is closed, the build is ended.

        Its id is the digest of what is installed, so that no name can be given to anything but what it stands for.
        Raises `InvalidRequest`: it is not; `BuildFailed`, `EngineUnavailable`.
        """
        interpreter = await self._interpreter(verb.interpreter)
        lock = Lock("", {file.name: file.version for file in verb.files}, tuple(map(_locked, verb.files)))
        if environment_id(lock, interpreter) != verb.environment_id:
            msg = "the environment's id does not follow from what it is to hold"
            raise InvalidRequest(msg)
        if lock.from_source:
            self._permit_source_builds()
        async with self._builds, copied(verb.files, self._settings) as paths:
            order = BuildOrder(
                environment_id=verb.environment_id,
                interpreter=interpreter,
                files=paths,
                from_source=lock.from_source,
                labels=image_labels(verb.environment_id, interpreter, lock.packages),
                timeout_s=self._build_time(verb.timeout_s),
                log_tail_bytes=self._settings.build_log_tail_bytes,
                hashes=[file.sha256 for file in verb.files],
            )
            async with aclosing(self._images.build(order)) as events:  # type: ignore[type-var]  # they are generators
                async for event in events:
                    yield event

    async def prepare(self) -> None:
        """Make interpreters ready; all who ask meanwhile wait for the one preparation."""
        if self._preparing is None or self._preparing.done():
            self._preparing = asyncio.create_task(self._images.prepare())
        await asyncio.shield(self._preparing)

    async def interpreters(self) -> list[Interpreter]:
        """Those on offer."""
        return await self._images.interpreters()

    async def take_up(self) -> None:
        """Go on from where an earlier driver ended: before the first verb. Raises `EngineUnavailable`."""
        await self._look()
        for sandbox in self._sandboxes.values():
            try:
                await self._backend.resume(sandbox)
            except KodouError as exc:
                log.warning("sandbox_not_resumed", sandbox=sandbox.id, error=exc.detail)
        await asyncio.to_thread(_remove_run_directories, self._settings, set(self._sandboxes))

    async def aclose(self) -> None:
        """Let go of the engine; sandboxes go on running."""
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.wait({self._preparing})
        await self._backend.aclose()

    async def _start(self, verb: Start) -> Sandbox:
        spec = SandboxSpec(self._resources(verb), network=self._network(verb))
        await self._make_room()
        self._starting += 1
        try:
            async with self._starts.turn(f"{verb.labels.instance}/{verb.owner}"):
                image = await self._images.find(verb.environment_id)
                if image is None:
                    msg = f"the image of environment {verb.environment_id} is gone; set the environment up again"
                    raise NotFound(msg)
                sandbox = await self._backend.start(image, spec, labels=_written(verb.labels))
                self._sandboxes[sandbox.id] = sandbox
                return sandbox
        finally:
            self._starting -= 1

    async def _make_room(self) -> None:
        """Raises `EngineUnavailable`: there are as many sandboxes as settings allow, and as many more as start at once."""
        most = self._settings.max_sessions + self._settings.max_starts
        if len(self._sandboxes) + self._starting >= most:
            await self._look()  # some may have gone without having been stopped
        if len(self._sandboxes) + self._starting >= most:
            msg = f"{most} sandboxes run already: see KODOU_MAX_SESSIONS of the driver"
            raise EngineUnavailable(msg)

    async def _inspect(self, sandbox_id: str) -> SandboxStatus:
        sandbox = await self._known(sandbox_id)
        return _GONE if sandbox is None else await self._backend.inspect(sandbox)

    async def _stop(self, verb: messages.Stop) -> None:
        sandbox = await self._known(verb.sandbox_id)
        if sandbox is not None:
            await self._backend.stop(sandbox, grace_s=min(verb.grace_s, self._settings.shutdown_s))
            self._sandboxes.pop(sandbox.id, None)

    async def _remove(self, environment_id: str) -> bool:
        image = await self._images.find(environment_id)
        return True if image is None else await self._images.remove(image)

    async def _lock(self, verb: messages.Lock) -> str:
        self._permit_source_builds()
        interpreter = await self._interpreter(verb.interpreter)
        settings = self._settings
        wanted = canonical(
            verb.requirements,
            max_count=settings.max_dependencies,
            max_bytes=_GROWTH * settings.max_dependency_bytes,
        )
        async with self._builds:
            timeout_s = self._build_time(verb.timeout_s)
            return await self._images.lock_in_sandbox(interpreter, wanted, timeout_s=timeout_s)

    async def _there(self, sandbox_id: str) -> Sandbox:
        """One of ours. Raises `SandboxLost`."""
        sandbox = await self._known(sandbox_id)
        if sandbox is None:
            msg = f"sandbox {sandbox_id} is gone"
            raise SandboxLost(msg)
        return sandbox

    async def _known(self, sandbox_id: str) -> Sandbox | None:
        """One of this driver's instance. Nothing else can be named."""
        if sandbox_id not in self._sandboxes:
            await self._look()
        return self._sandboxes.get(sandbox_id)

    async def _look(self) -> None:
        self._sandboxes = {sandbox.id: sandbox for sandbox in await self._backend.owned({})}

    async def _interpreter(self, digest: str) -> Interpreter:
        for interpreter in await self.interpreters():
            if interpreter.digest == digest:
                return interpreter
        msg = "the interpreter is not on offer, or not yet: try again"
        raise EngineUnavailable(msg)

    def _resources(self, verb: Start) -> Resources:
        settings = self._settings
        for asked, most, name in (
            (verb.memory_mb, settings.max_memory_mb, "memory_mb"),
            (verb.cpus, settings.max_cpus, "cpus"),
            (verb.pids, settings.max_pids, "pids"),
            (verb.disk_mb, settings.max_disk_mb, "disk_mb"),
        ):
            if not 0 < asked <= most:  # so that NaN is refused as well
                msg = f"at most {most:g}"
                raise InvalidRequest(msg, field=f"resources.{name}")
        return Resources(memory_mb=verb.memory_mb, cpus=verb.cpus, pids=verb.pids, disk_mb=verb.disk_mb)

    def _network(self, verb: Start) -> str:
        if verb.network != "none" and not self._settings.allow_egress:
            msg = "the driver does not allow network egress: see KODOU_ALLOW_EGRESS"
            raise InvalidRequest(msg, field="network")
        return verb.network

    def _build_time(self, asked_s: float) -> float:
        limit_s = self._settings.build_timeout_s
        return limit_s if math.isnan(asked_s) else min(asked_s, limit_s)

    def _permit_source_builds(self) -> None:
        if not self._settings.allow_source_builds:
            msg = "the driver builds nothing from source: see KODOU_ALLOW_SOURCE_BUILDS"
            raise InvalidRequest(msg)


def _written(labels: Labels) -> dict[str, str]:
    """As sandboxes carry them."""
    found = {SESSION_LABEL: labels.session, SERVER_LABEL: labels.instance}
    return {name: value for name, value in found.items() if value is not None}


def _made(sandbox: Sandbox) -> Made:
    labels = Labels(session=sandbox.labels.get(SESSION_LABEL), instance=sandbox.labels.get(SERVER_LABEL))
    return Made(sandbox.id, sandbox.environment_id, labels)


def _described(interpreter: Interpreter) -> Interpreter:
    """Without the image or path that stands for it here."""
    return replace(interpreter, base=interpreter.digest)


def _locked(file: messages.File) -> LockedFile:
    is_sdist = not file.filename.endswith(".whl")
    return LockedFile(file.name, file.version, file.filename, "", file.sha256, None, is_sdist)


def _remove_run_directories(settings: Settings, known: set[str]) -> None:
    """Those whose start a crash cut short, before there was a sandbox."""
    if settings.run_dir.is_dir():
        for path in settings.run_dir.iterdir():
            if path.name not in known:
                Link.remove(settings.run_dir, path.name)
