"""Shared sandboxes: one for an owner's sessions on an environment, each in a slot with a user id of its own.

Never over owners. What it gives up stands in SECURITY.md; so it is done only where settings say `share_sandboxes`. A session
with egress has a sandbox of its own all the same. One with variables shares with others that have some, where nothing is
imported before they are set.

A slot's handle is a `Sandbox` like any other to whoever holds it. Shared sandboxes are not taken up again after a restart: their
sessions get fresh ones with their next call.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from orchestrator.errors import EngineUnavailable, SandboxLost
from orchestrator.records import Resources, Session
from orchestrator.sandboxes.backend import Image, Sandbox, SandboxBackend, SandboxSpec
from orchestrator.sandboxes.channel import RunnerChannel
from orchestrator.sandboxes.greeting import await_greeting
from orchestrator.sandboxes.host_channel import HostChannel
from orchestrator.sandboxes.slots import SharingBackend, enlarged, slot_uid
from orchestrator.sandboxes.socket_channel import greet
from orchestrator.sessions.background import Background
from orchestrator.settings import Settings
from orchestrator.telemetry import SHARED_SANDBOXES, log

# In place of a session's id, in the label of a shared sandbox.
SHARED = "1" * 32
_SLOT_OF = "slot_of"  # of a slot's `data`: the sandbox that it is in
# For everything of a session to be ended; past it, its shared sandbox ends with all that are in it.
_REMOVE_S = 20.0
# Sandboxes that one session sees start and end at once: what the environment imports may do that to each.
_LOST_STARTS = 2


@dataclass(frozen=True, slots=True)
class _Key:
    """Who may share."""

    owner: str
    environment_id: str
    resources: Resources
    bare: bool  # nothing is imported before a session begins


@dataclass(slots=True)
class _Host:
    """A shared sandbox that runs."""

    sandbox: Sandbox
    channel: HostChannel
    free: list[int]  # numbers of slots, the next one last
    slots: dict[str, int] = field(default_factory=dict)  # by their ids
    empty_since: float = field(default_factory=time.monotonic)

    def has_room(self) -> bool:
        return bool(self.free) and self.channel.alive()


@dataclass(slots=True)
class _Group:
    """The shared sandboxes of one key."""

    hosts: list[_Host] = field(default_factory=list)
    starting: "asyncio.Task[_Host] | None" = None
    waiting: int = 0  # sessions that are to have what is starting
    distributions: tuple[str, ...] = ()
    importable: bool = True  # as far as is known

    def with_room(self) -> _Host | None:
        return next((host for host in self.hosts if host.has_room()), None)


class _ImportsFailed(SandboxLost):
    """They took too long, or ended the sandbox."""


def is_slot(sandbox: Sandbox) -> bool:
    """Whether it is in a shared sandbox, with which alone it can be found."""
    return _SLOT_OF in sandbox.data


class SharedSandboxes:
    """One for a server; belongs to its event loop."""

    def __init__(
        self, settings: Settings, backend: SandboxBackend, labels: Mapping[str, str], background: Background
    ) -> None:
        """`labels`: of shared sandboxes. Raises `EngineUnavailable`: this backend has none."""
        if not isinstance(backend, SharingBackend):
            msg = (
                f"KODOU_SHARE_SANDBOXES: the {backend.name} backend cannot share sandboxes"
                f"{' through a driver' if settings.driver_socket is not None else ''}"
            )
            raise EngineUnavailable(msg)
        self._settings = settings
        self._backend: SharingBackend = backend
        self._labels = labels
        self._background = background
        self._groups: dict[_Key, _Group] = {}
        self._closed = False

    def takes(self, session: Session) -> bool:
        """Whether it shares."""
        return session.network == "none"

    async def open(
        self, image: Image, session: Session, distributions: tuple[str, ...]
    ) -> tuple[Sandbox, RunnerChannel]:
        """A slot, and the channel to its runner, greeted and not configured. A first one on an environment starts a sandbox,
        with these imported. Raises `NotFound` (image), `SandboxLost`, `EngineUnavailable`."""
        key = _Key(session.owner, session.environment_id, session.resources, bare=bool(session.env))
        lost = 0
        while True:
            group = self._groups.setdefault(key, _Group())  # anew each time: it may have been let go of meanwhile
            group.distributions = distributions or group.distributions
            host = group.with_room()
            if host is not None:
                return await self._open(host, session)
            if self._closed:
                msg = "the server is shutting down"
                raise SandboxLost(msg)
            if lost == _LOST_STARTS:
                msg = "shared sandboxes of this environment end as soon as they have started"
                raise SandboxLost(msg)
            if group.starting is None:
                group.starting = self._background.spawn(self._start(key, group, image))
            group.waiting += 1
            try:
                # Not cancelled with one of those who wait for it.
                started = await asyncio.shield(group.starting)
            finally:
                group.waiting -= 1
            # One that lives and has no room was filled by others, and there may be any number of these.
            lost += not started.channel.alive()

    async def close(self, slot: Sandbox) -> None:
        """End a slot, with all that runs in it and its files; already gone is success. Raises `EngineUnavailable`."""
        host = self._host(slot.data[_SLOT_OF])
        number = None if host is None else host.slots.pop(slot.id, None)
        if host is None or number is None:
            return
        host.empty_since = time.monotonic()
        try:
            if await host.channel.remove(slot.id, timeout_s=_REMOVE_S):
                host.free.append(number)
        except SandboxLost:  # it must not outlive this, and who should end it does not say that it has
            await self._stop(host)
        finally:
            await self._backend.close_slot(host.sandbox, slot.id)
        if not host.slots and not host.free:
            await self._stop(host)
        await self._stop_surplus()  # here, so that the session counts until they are gone

    def holds(self, sandbox: Sandbox) -> bool:
        """It is one of these, or may be: some are just starting."""
        return self._host(sandbox.id) is not None or any(group.starting for group in self._groups.values())

    async def tend(self) -> None:
        """Let go of those that have stood empty for a while, or are too many. Now and then, by the reaper."""
        past = time.monotonic() - self._settings.pool_idle_s
        for group in list(self._groups.values()):
            for host in list(group.hosts):
                if not host.slots and host.empty_since < past:
                    await self._stop(host)
        await self._stop_surplus()  # those too that no session has come to
        for key, group in list(self._groups.items()):
            if not group.hosts and group.starting is None:
                self._groups.pop(key, None)

    def drain(self, environment_id: str) -> None:
        """Let go of those of an environment that nobody is in: another has taken its place."""
        for key, group in self._groups.items():
            if key.environment_id == environment_id:
                for host in [each for each in group.hosts if not each.slots]:
                    self._forget(host)  # before it is stopped: nobody is to come into it meanwhile
                    self._background.spawn(self._stop(host))

    async def aclose(self) -> None:
        """Stop all: the next server does not take them up."""
        self._closed = True
        for group in list(self._groups.values()):  # who asks meanwhile makes one, and is refused
            if group.starting is not None:
                await asyncio.wait({group.starting})
        hosts = [host for group in self._groups.values() for host in group.hosts]
        for error in await asyncio.gather(*map(self._stop, hosts), return_exceptions=True):
            if error is not None:
                log.warning("a shared sandbox was not stopped", error=repr(error))

    async def _start(self, key: _Key, group: _Group, image: Image) -> _Host:
        """Start one for the group. Raises as `open`."""
        deadline = time.monotonic() + self._settings.sandbox_start_timeout_s
        # Libraries' threads, which no fork takes along, are worth more than their import with more processors.
        imports = () if key.bare or key.resources.cpus > 1 or not group.importable else group.distributions
        try:
            try:
                host = await self._started(key, imports, image, deadline)
            except _ImportsFailed:
                group.importable = False  # each session has what comes of it for itself
                host = await self._started(key, (), image, deadline)
            group.hosts.append(host)
            self._measure()
            return host
        finally:
            group.starting = None

    async def _started(self, key: _Key, imports: tuple[str, ...], image: Image, deadline: float) -> _Host:
        spec = SandboxSpec(
            enlarged(key.resources, self._settings),
            slots=self._settings.max_sessions_per_sandbox,
        )
        sandbox = await self._backend.start(image, spec, labels=self._labels)
        try:
            channel = await self._greeted(sandbox, deadline - time.monotonic())
            if imports:
                try:
                    # Half of what is left: the other half is for a start without them.
                    await channel.preload(imports, timeout_s=(deadline - time.monotonic()) / 2)
                except SandboxLost as exc:
                    raise _ImportsFailed(exc.detail) from exc
            if not channel.alive():  # it may have ended with the answer; `_lost` does not know of it yet
                msg = "a shared sandbox ended as soon as it had started"
                raise SandboxLost(msg)
        except BaseException:
            self._background.spawn(self._backend.stop(sandbox))
            raise
        return _Host(sandbox, channel, list(reversed(range(spec.slots))))

    async def _greeted(self, sandbox: Sandbox, timeout_s: float) -> HostChannel:
        async def ended() -> str | None:
            status = await self._backend.inspect(sandbox)
            return None if status.running else status.reason

        link = await self._backend.open_link(sandbox)
        channel = HostChannel(link, partial(self._lost, sandbox.id))
        await await_greeting(channel, sandbox.id, timeout_s, ended)
        return channel

    async def _open(self, host: _Host, session: Session) -> tuple[Sandbox, RunnerChannel]:
        number, slot = host.free.pop(), secrets.token_hex(16)
        host.slots[slot] = number
        sandbox = Sandbox(slot, self._backend.name, session.environment_id, {_SLOT_OF: host.sandbox.id}, self._labels)
        try:
            link = await self._backend.open_slot(host.sandbox, slot, number)
            host.channel.add(slot, slot_uid(host.sandbox, number), session.resources)

            async def ended() -> str | None:
                return None if host.channel.alive() else "its shared sandbox has ended"

            return sandbox, await greet(link, self._settings.sandbox_start_timeout_s, ended=ended)
        except BaseException as exc:
            self._background.spawn(self.close(sandbox))
            if isinstance(exc, OSError):
                msg = f"the link of a session could not be made: {exc}"
                raise SandboxLost(msg) from exc
            raise

    def _lost(self, sandbox_id: str) -> None:
        """Its channel has ended: what is left of it is of no use, and its sessions start anew."""
        host = self._host(sandbox_id)
        if host is not None:
            self._background.spawn(self._stop(host))

    async def _stop_surplus(self) -> None:
        while (host := self._surplus()) is not None:
            await self._stop(host)

    def _surplus(self) -> _Host | None:
        """An empty one too many. No session counts for it, so each owner may have one only, the one that has been empty the
        longest, and all owners together as many as the pool may have, of which that one goes first."""
        empty = sorted(
            (
                (key.owner, host)
                for key, group in self._groups.items()
                if not group.waiting  # else it is about to be taken
                for host in group.hosts
                if not host.slots
            ),
            key=lambda each: each[1].empty_since,
        )
        owners: set[str] = set()
        for owner, host in empty:
            if owner in owners:
                return host
            owners.add(owner)
        return empty[0][1] if len(empty) > self._settings.pool_sandboxes else None

    async def _stop(self, host: _Host) -> None:
        self._forget(host)
        await host.channel.aclose()
        await self._backend.stop(host.sandbox)

    def _forget(self, host: _Host) -> None:
        """Let no more sessions come into it."""
        for group in self._groups.values():
            if host in group.hosts:
                group.hosts.remove(host)
        self._measure()

    def _host(self, sandbox_id: str) -> _Host | None:
        hosts = (host for group in self._groups.values() for host in group.hosts)
        return next((host for host in hosts if host.sandbox.id == sandbox_id), None)

    def _measure(self) -> None:
        SHARED_SANDBOXES.set(sum(len(group.hosts) for group in self._groups.values()))
