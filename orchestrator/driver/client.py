"""DriverBackend: a backend that asks a driver for everything but calls, which go straight to the runner.

Each verb has a connection of its own, so a driver that was restarted is found again by whoever asks next.
"""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from orchestrator.driver import messages, wire
from orchestrator.driver.faults import raised
from orchestrator.driver.messages import MAX_REPLY_BYTES, Labels, Malformed, Reply, Verb
from orchestrator.errors import Defect, EngineUnavailable, SandboxLost
from orchestrator.sandboxes.backend import (
    BuildEvent,
    BuildOrder,
    Image,
    ImageStore,
    Interpreter,
    Sandbox,
    SandboxSpec,
    SandboxStatus,
)
from orchestrator.sandboxes.channel import RunnerChannel
from orchestrator.sandboxes.labels import INSTANCE_LABEL, PACKAGES_LABEL, SESSION_LABEL
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.socket_channel import greet
from orchestrator.telemetry import log

R = TypeVar("R", bound=Reply)

HELLO_S = 10.0
# For all verbs but those that may take as long as a build: over what the driver's own engine requests may take.
ANSWER_S = 180.0


class Asking:
    """One driver, by its socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def ask(self, verb: Verb, wanted: type[R], *, timeout_s: float | None = ANSWER_S) -> R:
        """The reply to a verb. Raises the error that the driver tells; `EngineUnavailable`: none came."""
        with _unavailable():
            async with asyncio.timeout(timeout_s), self._said(verb) as connection:
                return _as(messages.read_reply(await wire.receive(connection, MAX_REPLY_BYTES)), wanted)

    async def open_link(self, sandbox_id: str) -> Link:
        """Raises `SandboxLost`, `EngineUnavailable`."""
        with _unavailable():
            async with asyncio.timeout(ANSWER_S), self._said(messages.OpenLink(sandbox_id)) as connection:
                body, descriptor = await wire.receive_with_descriptor(connection, MAX_REPLY_BYTES)
        try:
            with _unavailable():
                linked = _as(messages.read_reply(body), messages.Linked)
            if descriptor is None:
                msg = f"the driver handed over no link of sandbox {sandbox_id}"
                raise SandboxLost(msg)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        with _unavailable():
            return Link.received(descriptor, sandbox_id, peer_uid=linked.peer_uid, reopened=linked.reopened)

    async def build(self, verb: messages.Build) -> AsyncGenerator[BuildEvent]:
        """Its events. When it is closed, the connection is, and the driver ends the build. Raises as `ask`."""
        with _unavailable():
            async with self._said(verb) as connection:
                while True:
                    reply = messages.read_reply(await wire.receive(connection, MAX_REPLY_BYTES))
                    if not isinstance(reply, messages.Progress):
                        _as(reply, messages.Done)
                        return
                    yield reply.event

    @asynccontextmanager
    async def _said(self, verb: Verb) -> AsyncIterator[socket.socket]:
        """A connection on which a verb was said."""
        with await wire.connected(self._path) as connection:
            await wire.send(connection, messages.encode(verb))
            yield connection


class DriverBackend:
    """The `SandboxBackend` that a driver holds, under that one's name. Handles hold nothing: the driver knows the rest."""

    def __init__(self, path: Path, *, name: str) -> None:
        self.name = name
        self._driver = Asking(path)
        self.images: ImageStore = DriverImages(self._driver)

    @classmethod
    async def reached(cls, path: Path) -> "DriverBackend":
        """Raises `EngineUnavailable`: no driver answers there, or not to this user."""
        try:
            welcome = await Asking(path).ask(messages.Hello(), messages.Welcome, timeout_s=HELLO_S)
        except EngineUnavailable as exc:
            msg = f"no driver answers at {path}: start `kodou driver`, and let it serve this user (KODOU_DRIVER_USERS)"
            raise EngineUnavailable(msg) from exc
        return cls(path, name=welcome.backend)

    async def start(self, image: Image, spec: SandboxSpec, *, labels: Mapping[str, str]) -> Sandbox:
        resources = spec.resources
        verb = messages.Start(
            environment_id=image.environment_id,
            memory_mb=resources.memory_mb,
            cpus=float(resources.cpus),
            pids=resources.pids,
            disk_mb=resources.disk_mb,
            network="egress" if spec.network == "egress" else "none",
            labels=_labels(labels),
            owner=spec.owner,
        )
        work = asyncio.ensure_future(self._driver.ask(verb, messages.Made))
        try:
            return self._handle(await asyncio.shield(work))
        except asyncio.CancelledError:
            await asyncio.wait({work})  # the driver may have started it by now; nobody else would know of it
            if work.exception() is None:
                await self.stop(self._handle(work.result()))
            raise

    async def connect(self, sandbox: Sandbox, *, timeout_s: float) -> RunnerChannel:
        async def ended() -> str | None:
            status = await self.inspect(sandbox)
            return None if status.running else status.reason

        return await greet(await self._driver.open_link(sandbox.id), timeout_s, ended=ended)

    async def inspect(self, sandbox: Sandbox) -> SandboxStatus:
        return (await self._driver.ask(messages.Inspect(sandbox.id), messages.Status)).status

    async def freeze(self, sandbox: Sandbox) -> bool:
        return (await self._driver.ask(messages.Freeze(sandbox.id), messages.Frozen)).frozen

    async def thaw(self, sandbox: Sandbox) -> None:
        await self._driver.ask(messages.Thaw(sandbox.id), messages.Done)

    async def stop(self, sandbox: Sandbox, *, grace_s: float = 0.0) -> None:
        await self._driver.ask(messages.Stop(sandbox.id, grace_s), messages.Done)

    async def owned(self, labels: Mapping[str, str]) -> list[Sandbox]:
        reply = await self._driver.ask(messages.Owned(_labels(labels)), messages.Sandboxes)
        found = map(self._handle, reply.sandboxes)
        # A label that drivers do not know is on none of them.
        return [sandbox for sandbox in found if labels.items() <= sandbox.labels.items()]

    async def aclose(self) -> None:
        """Nothing is held."""

    def _handle(self, made: messages.Made) -> Sandbox:
        given = {SESSION_LABEL: made.labels.session, INSTANCE_LABEL: made.labels.instance}
        labels = {name: value for name, value in given.items() if value is not None}
        return Sandbox(made.id, self.name, made.environment_id, {}, labels)


class DriverImages:
    """The `ImageStore` of a driver."""

    def __init__(self, driver: Asking) -> None:
        self._driver = driver

    async def prepare(self) -> None:
        await self._driver.ask(messages.Prepare(), messages.Done, timeout_s=None)

    async def interpreters(self) -> list[Interpreter]:
        return list((await self._driver.ask(messages.Offered(), messages.Interpreters)).interpreters)

    async def lock_in_sandbox(self, interpreter: Interpreter, requirements: Sequence[str], *, timeout_s: float) -> str:
        verb = messages.Lock(interpreter.digest, tuple(requirements), timeout_s)
        return (await self._driver.ask(verb, messages.Locked, timeout_s=None)).text

    def build(self, order: BuildOrder) -> AsyncIterator[BuildEvent]:
        return self._driver.build(
            messages.Build(order.environment_id, order.interpreter.digest, _files(order), order.timeout_s)
        )

    async def find(self, environment_id: str) -> Image | None:
        return (await self._driver.ask(messages.Find(environment_id), messages.Found)).image

    async def list(self) -> list[Image]:
        return list((await self._driver.ask(messages.ListImages(), messages.Images)).images)

    async def remove(self, image: Image) -> bool:
        return (await self._driver.ask(messages.Remove(image.environment_id), messages.Removed)).removed


def _labels(labels: Mapping[str, str]) -> Labels:
    return Labels(session=labels.get(SESSION_LABEL), instance=labels.get(INSTANCE_LABEL))


def _files(order: BuildOrder) -> tuple[messages.File, ...]:
    """An order's files and packages come in one order: that of the names."""
    packages = [each.split("==") for each in order.labels.get(PACKAGES_LABEL, "").split()]
    return tuple(
        messages.File(filename=path.name, sha256=path.parent.name, name=name, version=version)
        for path, (name, version) in zip(order.files, packages, strict=True)
    )


def _as(reply: Reply, wanted: type[R]) -> R:
    if isinstance(reply, messages.Failed):
        raise raised(reply)
    if not isinstance(reply, wanted):
        msg = f"the driver answered with {type(reply).__name__} where {wanted.__name__} was due: is it of this version?"
        raise Defect(msg)
    return reply


@contextmanager
def _unavailable() -> Iterator[None]:
    """For what comes of a driver that is gone, or going."""
    try:
        yield
    except (OSError, EOFError, TimeoutError, Malformed) as exc:
        log.warning("driver_unavailable", error=f"{type(exc).__name__}: {exc}"[:500])
        msg = "the engine's driver does not answer; try again"
        raise EngineUnavailable(msg) from exc
