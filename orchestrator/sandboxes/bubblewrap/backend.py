"""BubblewrapBackend: sandboxes of namespaces, a system call filter and resource limits, without an engine.

Nothing but files and processes remembers a sandbox: its handle (`handles.py`), its link's directory, its control groups.
A sandbox outlives the server that started it, so that the next one takes it up again.
"""

import asyncio
import os
import secrets
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import EngineUnavailable, SandboxLost
from orchestrator.sandboxes.backend import Image, ImageStore, Sandbox, SandboxSpec, SandboxStatus
from orchestrator.sandboxes.bubblewrap.builder import BubblewrapBuilders
from orchestrator.sandboxes.bubblewrap.cgroups import Cgroup, GroupLimits
from orchestrator.sandboxes.bubblewrap.host import Machine, UserIds, check, promises
from orchestrator.sandboxes.bubblewrap.launch import Launched, is_exiting, kill, kill_user, launch
from orchestrator.sandboxes.bubblewrap.options import interpreter_prefix, session_argv, session_limits, tmpfs_files
from orchestrator.sandboxes.channel import RunnerChannel
from orchestrator.sandboxes.directories.handles import HandleFiles, is_same_process
from orchestrator.sandboxes.directories.images import DirectoryImages
from orchestrator.sandboxes.egress import Egress
from orchestrator.sandboxes.link import Link, opened
from orchestrator.sandboxes.slots import UIDS, block, open_link, remove_link, slot_uid
from orchestrator.sandboxes.socket_channel import greet
from orchestrator.settings import Settings

__all__ = ["BubblewrapBackend", "check", "promises"]

T = TypeVar("T")
# For all of a sandbox's processes to stand still: one that the kernel holds in the middle of something does not.
_FREEZE_S = 2.0
_FREEZE_POLL_S = 0.002


class BubblewrapBackend:
    """A handle's `data`: "cgroups" (paths), "uid" (where the server is root) and, once it runs, "pid" and "start_time" of
    its process 1 as this host knows them. Made anywhere; used on one event loop. Raises `EngineUnavailable`."""

    name = "bubblewrap"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._handles = HandleFiles(settings.data_dir / "handles" / self.name)
        self._uids = UserIds.of(settings)
        builder_uids = None if self._uids is None else self._uids.builders
        self._images = DirectoryImages(
            settings,
            backend=self.name,
            run=BubblewrapBuilders(settings, self._machine, builder_uids),
            handles=self._handles,
        )
        self.images: ImageStore = self._images
        self._found: Machine | None = None
        self._finding = asyncio.Lock()
        self._starting: set[str] = set()  # ids of sandboxes whose start is under way here
        self._children: dict[str, Launched] = {}  # by sandbox id: those that this process started
        self._links: dict[str, Link] = {}  # those that nobody has connected yet
        self._egress = Egress(settings)

    async def start(self, image: Image, spec: SandboxSpec, *, labels: Mapping[str, str]) -> Sandbox:
        machine = await self._machine()
        sandbox_id = secrets.token_hex(16)
        data = {"cgroups": os.pathsep.join(map(str, machine.groups.named(sandbox_id).directories))}
        if self._uids is not None:
            data["uid"] = str(self._uids.sessions.take(sandbox_id, block(spec.slots)))
            if spec.slots:
                data[UIDS] = str(block(spec.slots))
        sandbox = Sandbox(sandbox_id, self.name, image.environment_id, data, dict(labels))
        self._starting.add(sandbox_id)
        work = asyncio.ensure_future(asyncio.to_thread(self._started, machine, sandbox, image, spec))
        try:
            started = await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})  # the thread goes on; nobody would know what it starts
            if work.exception() is None:
                await self.stop(work.result())
            raise
        finally:
            self._starting.discard(sandbox_id)
            if self._uids is not None and work.done() and work.exception() is not None:
                self._uids.sessions.release(sandbox_id)
        if spec.network == "egress":
            try:
                await self._egress.open(sandbox_id, owner=_owner(started))
            except BaseException:
                await self.stop(started)
                raise
        return started

    async def connect(self, sandbox: Sandbox, *, timeout_s: float) -> RunnerChannel:
        link = await self.open_link(sandbox)

        async def ended() -> str | None:
            status = await self.inspect(sandbox)
            return None if status.running else status.reason

        return await greet(link, timeout_s, ended=ended)

    async def open_link(self, sandbox: Sandbox) -> Link:
        """What its runner connects to: the link of its start, once, or a fresh one. Raises `SandboxLost`."""
        if not await asyncio.to_thread(_runs, sandbox):
            raise _lost(sandbox)
        link = self._links.pop(sandbox.id, None)
        if link is not None:
            return link
        await self.resume(sandbox)
        return await opened(partial(self._reopen, sandbox))

    async def open_slot(self, sandbox: Sandbox, slot: str, number: int) -> Link:
        uid = slot_uid(sandbox, number)
        return await open_link(self._settings.run_dir, sandbox, slot, owner=uid, uid=uid)

    async def close_slot(self, sandbox: Sandbox, slot: str) -> None:
        await remove_link(self._settings.run_dir, sandbox, slot)

    async def resume(self, sandbox: Sandbox) -> None:
        """Do for it again what an earlier process did as long as it ran: let it out. Raises `EngineUnavailable`."""
        await self._egress.reopen(sandbox.id, owner=_owner(sandbox))

    async def inspect(self, sandbox: Sandbox) -> SandboxStatus:
        return await asyncio.to_thread(_status, sandbox, self._children.get(sandbox.id))

    async def stop(self, sandbox: Sandbox, *, grace_s: float = 0.0) -> None:
        link = self._links.pop(sandbox.id, None)
        if link is not None:
            link.close()
        await self._egress.close(sandbox.id)
        if grace_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await asyncio.to_thread(_terminate, sandbox)
                    await _ended(sandbox)
        await asyncio.shield(asyncio.to_thread(self._stop, sandbox, self._children.pop(sandbox.id, None)))
        if self._uids is not None:
            self._uids.sessions.release(sandbox.id)

    async def freeze(self, sandbox: Sandbox) -> bool:
        # Not by signals where there is no cgroup: a hostile process undoes them or outruns them, an honest one sees them.
        group = _cgroup(sandbox)
        if not await asyncio.to_thread(_switched, sandbox, group.freeze):
            return False
        try:
            async with asyncio.timeout(_FREEZE_S):
                while not await asyncio.to_thread(group.frozen):  # noqa: ASYNC110 - no event tells of it
                    await asyncio.sleep(_FREEZE_POLL_S)
        except TimeoutError:
            await self.thaw(sandbox)
            msg = f"some of sandbox {sandbox.id} still ran {_FREEZE_S:g} s after it was to freeze"
            raise EngineUnavailable(msg) from None
        return True

    async def thaw(self, sandbox: Sandbox) -> None:
        await asyncio.to_thread(_switched, sandbox, _cgroup(sandbox).thaw)

    async def owned(self, labels: Mapping[str, str]) -> list[Sandbox]:
        machine = await self._machine()  # which takes up the user ids that these hold
        await asyncio.to_thread(machine.groups.remove_left_behind)
        found = await asyncio.to_thread(self._handles.all)
        return [
            sandbox
            for sandbox in found
            if sandbox.id not in self._starting and labels.items() <= sandbox.labels.items()
        ]

    async def aclose(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()
        await self._egress.aclose()
        for child in self._children.values():
            child.let_go()
        self._children.clear()

    async def _machine(self) -> Machine:
        async with self._finding:
            if self._found is None:
                self._found = await asyncio.to_thread(Machine.look, self._settings)
                for sandbox in await asyncio.to_thread(self._handles.all):
                    if self._uids is not None and "uid" in sandbox.data:
                        self._uids.sessions.hold(sandbox.id, int(sandbox.data["uid"]), int(sandbox.data.get(UIDS, "1")))
            return self._found

    def _started(self, machine: Machine, sandbox: Sandbox, image: Image, spec: SandboxSpec) -> Sandbox:
        try:
            return self._start(machine, sandbox, image, spec)
        except OSError as exc:
            msg = f"a sandbox could not be started: {exc}"
            raise EngineUnavailable(msg) from exc

    def _start(self, machine: Machine, sandbox: Sandbox, image: Image, spec: SandboxSpec) -> Sandbox:
        uid = int(sandbox.data["uid"]) if "uid" in sandbox.data else None
        if spec.slots and uid is None:
            msg = "shared sandboxes need a server that runs as root"
            raise EngineUnavailable(msg)
        shared = range(uid, uid + block(spec.slots)) if spec.slots and uid is not None else None
        resources = spec.resources
        limits = session_limits(
            pids=resources.pids,
            nofile=spec.nofile,
            memory_mb=resources.memory_mb,
            own_uid=uid is not None and shared is None,
            memory_held=machine.groups.holds("memory"),
        )
        with ExitStack() as undo:
            # Before all else, so that a crash at any point leaves something to find it by.
            undo.callback(self._handles.remove, sandbox.id)
            self._handles.write(sandbox)
            built = self._images.located(image)
            owner = os.geteuid() if uid is None else uid
            undo.callback(Link.remove, self._settings.run_dir, sandbox.id)
            link = Link.create(
                self._settings.run_dir, sandbox.id, owner=owner, peer_uid=owner, passable=shared is not None
            )
            undo.callback(link.close)
            group = machine.groups.create(sandbox.id, GroupLimits(resources.memory_mb, resources.pids, resources.cpus))
            undo.callback(group.remove)
            argv = session_argv(
                machine.host,
                env=built.env,
                lib=built.library,
                link=link.directory,
                prefix=interpreter_prefix(built.interpreter),
                disk_mb=resources.disk_mb,
                share=None if shared is None else shared.start,
            )
            launched = launch(
                argv,
                uid=uid if shared is None else None,
                limits=limits,
                cgroup=group,
                files=tmpfs_files(resources.disk_mb),
                shared=shared,
            )
            undo.callback(launched.kill)
            data = {**sandbox.data, "pid": str(launched.pid), "start_time": launched.start_time}
            started = replace(sandbox, data=data)
            self._handles.write(started)
            self._children[sandbox.id] = launched
            self._links[sandbox.id] = link
            undo.pop_all()
        return started

    def _stop(self, sandbox: Sandbox, child: Launched | None) -> None:
        if "pid" in sandbox.data:
            kill(int(sandbox.data["pid"]), sandbox.data["start_time"], _cgroup(sandbox))
        elif "uid" in sandbox.data:
            kill_user(int(sandbox.data["uid"]))
        if child is not None:
            child.kill()
        _cgroup(sandbox).remove()
        Link.remove(self._settings.run_dir, sandbox.id)
        self._handles.remove(sandbox.id)

    def _reopen(self, sandbox: Sandbox) -> Link:
        owner = _owner(sandbox)
        try:
            return Link.reopen(self._settings.run_dir, sandbox.id, owner=owner, peer_uid=owner)
        except OSError as exc:
            raise _lost(sandbox) from exc


def _owner(sandbox: Sandbox) -> int:
    """The user id that it has on this host."""
    return int(sandbox.data["uid"]) if "uid" in sandbox.data else os.geteuid()


def _runs(sandbox: Sandbox) -> bool:
    return "pid" in sandbox.data and is_same_process(int(sandbox.data["pid"]), sandbox.data["start_time"])


def _status(sandbox: Sandbox, child: Launched | None) -> SandboxStatus:
    if _runs(sandbox) and not is_exiting(int(sandbox.data["pid"])):
        return SandboxStatus(running=True, reason="running")
    code = None if child is None else child.outer.poll()
    if _cgroup(sandbox).ran_out_of_memory():
        return SandboxStatus(running=False, exit_code=code, reason="oom")
    return SandboxStatus(running=False, exit_code=code, reason="gone" if code is None else "exited")


def _switched(sandbox: Sandbox, switch: Callable[[], T]) -> T:
    """Raises `SandboxLost`, `EngineUnavailable`."""
    if not _runs(sandbox):
        raise _lost(sandbox)
    try:
        return switch()
    except OSError as exc:
        msg = f"the freezer of sandbox {sandbox.id} does not do what it is told: {exc}"
        raise EngineUnavailable(msg) from exc


def _terminate(sandbox: Sandbox) -> None:
    _cgroup(sandbox).thaw()
    with suppress(ProcessLookupError):
        if _runs(sandbox):
            os.kill(int(sandbox.data["pid"]), signal.SIGTERM)


def _cgroup(sandbox: Sandbox) -> Cgroup:
    return Cgroup(tuple(Path(path) for path in sandbox.data["cgroups"].split(os.pathsep) if path))


def _lost(sandbox: Sandbox) -> SandboxLost:
    return SandboxLost(f"sandbox {sandbox.id} has ended")


async def _ended(sandbox: Sandbox) -> None:
    """Wait for the end of its process 1."""
    if "pid" not in sandbox.data:
        return
    try:
        pidfd = os.pidfd_open(int(sandbox.data["pid"]))
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        # Looked at once there is a descriptor: it may be of another process that has the pid now.
        if await asyncio.to_thread(_runs, sandbox):
            await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
