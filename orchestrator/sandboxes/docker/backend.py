"""DockerBackend: sandboxes as containers of an engine, which remembers them: labels say whose each is, and what."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from docker import APIClient

from orchestrator.errors import EngineUnavailable, KodouError, NotFound, SandboxLost
from orchestrator.records import Resources
from orchestrator.sandboxes.backend import Image, ImageStore, Sandbox, SandboxSpec, SandboxStatus
from orchestrator.sandboxes.channel import RunnerChannel
from orchestrator.sandboxes.docker.engine import Engine, EngineConflict
from orchestrator.sandboxes.docker.gvisor import is_gvisor
from orchestrator.sandboxes.docker.host import Host
from orchestrator.sandboxes.docker.images import DockerImages
from orchestrator.sandboxes.docker.options import (
    GIVEN,
    HOSTS,
    KIND,
    SANDBOX,
    SANDBOX_ID,
    UID,
    UID_COUNT,
    UNSET,
    sandbox_body,
)
from orchestrator.sandboxes.docker.verbs import (
    pause_container,
    remove_container,
    start_container,
    stop_container,
    unpause_container,
)
from orchestrator.sandboxes.egress import Egress
from orchestrator.sandboxes.instance import instance_id
from orchestrator.sandboxes.labels import ENVIRONMENT_LABEL, INSTANCE_LABEL
from orchestrator.sandboxes.layout import RUNNER, RUNNER_COMMAND
from orchestrator.sandboxes.link import Link, opened
from orchestrator.sandboxes.seccomp import profile_json
from orchestrator.sandboxes.slots import UIDS, block, open_link, remove_link, slot_uid
from orchestrator.sandboxes.socket_channel import greet
from orchestrator.sandboxes.uids import Uids
from orchestrator.settings import Settings

CONTAINER_PREFIX = "kodou-"  # the sandbox's id follows
# How often a sandbox whose runner has not greeted yet is looked at, for whether it still runs.
_LOOK_S = 1.0


class DockerBackend:
    """Making one reads, or makes, a file of the data directory: it blocks for a moment."""

    name = "docker"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = Engine(settings)
        self._instance = instance_id(settings.data_dir)
        self._seccomp = profile_json(gvisor=is_gvisor(settings.docker_runtime))
        self._hosts = settings.data_dir / "hosts"
        self._links: dict[str, Link] = {}  # of sandboxes that nobody has connected to yet
        self._egress = Egress(settings)
        self._host: Host | None = None
        self._uids = Uids(settings.sandbox_uid_base, settings.sandbox_uid_count)
        self._looking = asyncio.Lock()
        trial = None if settings.docker_runtime is None else self._try
        self._images = DockerImages(settings, self._engine, instance=self._instance, trial=trial)
        self.images: ImageStore = self._images

    async def ping(self, *, timeout_s: float) -> None:
        """Raises `EngineUnavailable` if the engine does not answer in time."""
        await self._engine.ping(timeout_s=timeout_s)

    async def start(self, image: Image, spec: SandboxSpec, *, labels: Mapping[str, str]) -> Sandbox:
        return await self._start(image, spec, labels, RUNNER_COMMAND)

    async def _start(
        self, image: Image, spec: SandboxSpec, labels: Mapping[str, str], command: Sequence[str]
    ) -> Sandbox:
        host, uids = await self._ready()
        sandbox_id = uuid4().hex
        name = f"{CONTAINER_PREFIX}{sandbox_id}"
        count = block(spec.slots)
        uid = uids.take(sandbox_id, count)
        try:
            create = partial(Link.create, passable=spec.slots > 0)
            link = await opened(partial(self._link, create, sandbox_id, uid, host))
            self._links[sandbox_id] = link
            if spec.network == "egress":
                await self._egress.open(sandbox_id, owner=_owner(uid, host))
            body = sandbox_body(
                image.ref,
                spec,
                sandbox_id=sandbox_id,
                environment_id=image.environment_id,
                instance=self._instance,
                uid=uid,
                run_dir=link.directory,
                hosts=self._hosts,
                seccomp=profile_json(uids=range(uid, uid + count)) if spec.slots else self._seccomp,
                runtime=self._settings.docker_runtime,
                labels=labels,
                unset=[name for name in image.labels.get(UNSET, "").split(",") if name],
                command=command,
            )
            container = await self._engine.run_through(partial(start_container, name=name, body=body))
        except BaseException as exc:
            try:
                await self._remove(sandbox_id, name)
            except KodouError:  # the engine went away: what it has of it, if anything, `owned` finds later
                await self._let_go(sandbox_id)
            if isinstance(exc, NotFound):
                msg = f"the image of environment {image.environment_id} is gone; set the environment up again"
                raise NotFound(msg) from exc
            raise
        data = {"container": container, "uid": str(uid)}
        if spec.slots:
            data[UIDS] = str(count)
        return Sandbox(sandbox_id, self.name, image.environment_id, data, labels)

    async def connect(self, sandbox: Sandbox, *, timeout_s: float) -> RunnerChannel:
        greeting = asyncio.create_task(greet(await self.open_link(sandbox), timeout_s))
        try:
            while not (await asyncio.wait([greeting], timeout=_LOOK_S))[0]:
                status = await self.inspect(sandbox)
                if not status.running:
                    msg = f"sandbox {sandbox.id} ended before its runner connected: {status.reason}"
                    raise SandboxLost(msg)
        except BaseException:
            greeting.cancel()
            with suppress(asyncio.CancelledError, SandboxLost):
                await (await greeting).aclose()
            raise
        return greeting.result()

    async def open_link(self, sandbox: Sandbox) -> Link:
        """What its runner connects to: the link of its start, once, or a fresh one. Raises `SandboxLost`."""
        host, _ = await self._ready()
        link = self._links.pop(sandbox.id, None)
        if link is not None:
            return link
        await self.resume(sandbox)
        try:
            return await opened(partial(self._link, Link.reopen, sandbox.id, int(sandbox.data["uid"]), host))
        except OSError as exc:
            msg = f"the link of sandbox {sandbox.id} is gone"
            raise SandboxLost(msg) from exc

    async def open_slot(self, sandbox: Sandbox, slot: str, number: int) -> Link:
        host, _ = await self._ready()
        uid = slot_uid(sandbox, number)
        return await open_link(self._settings.run_dir, sandbox, slot, owner=_owner(uid, host), uid=uid)

    async def close_slot(self, sandbox: Sandbox, slot: str) -> None:
        await remove_link(self._settings.run_dir, sandbox, slot)

    async def resume(self, sandbox: Sandbox) -> None:
        """Do for it again what an earlier process did as long as it ran: let it out. Raises `EngineUnavailable`."""
        host, _ = await self._ready()
        await self._egress.reopen(sandbox.id, owner=_owner(int(sandbox.data["uid"]), host))

    async def inspect(self, sandbox: Sandbox) -> SandboxStatus:
        try:
            found = await self._engine.run(lambda client: client.inspect_container(sandbox.data["container"]))
        except NotFound:
            return SandboxStatus(running=False, reason="gone")
        return _status(found["State"])

    async def freeze(self, sandbox: Sandbox) -> bool:
        await self._tell(sandbox, pause_container)
        return True

    async def thaw(self, sandbox: Sandbox) -> None:
        await self._tell(sandbox, unpause_container)

    async def _tell(self, sandbox: Sandbox, what: Callable[[APIClient, str], None]) -> None:
        container = sandbox.data["container"]
        try:
            await self._engine.run(lambda client: what(client, container))
        except (NotFound, EngineConflict) as exc:
            msg = f"sandbox {sandbox.id} has ended"
            raise SandboxLost(msg) from exc

    async def stop(self, sandbox: Sandbox, *, grace_s: float = 0.0) -> None:
        container = sandbox.data["container"]
        if is_gvisor(self._settings.docker_runtime):  # which kills nothing while it is paused
            with suppress(SandboxLost, EngineUnavailable):
                await self.thaw(sandbox)
        if grace_s > 0:
            await self._engine.run_through(partial(stop_container, name=container, grace_s=grace_s))
        await self._remove(sandbox.id, container)

    async def owned(self, labels: Mapping[str, str]) -> list[Sandbox]:
        wanted = {KIND: SANDBOX, INSTANCE_LABEL: self._instance, **labels}
        filters = {"label": [f"{name}={value}" for name, value in wanted.items()]}
        found = await self._engine.run(lambda client: client.containers(all=True, filters=filters))
        return [_sandbox(each["Id"], each["Labels"]) for each in found]

    async def _try(self, ref: str) -> None:
        """Whether a runner of this runner image reaches its link: not with every runtime. Raises `EngineUnavailable`."""
        image = Image("trial", ref, size_bytes=0, created_at=datetime.now(UTC), labels={})
        limits = self._settings
        spec = SandboxSpec(Resources(limits.memory_mb, limits.cpus, limits.pids, limits.disk_mb))
        sandbox = await self._start(image, spec, {}, ("python3", "-I", *RUNNER))
        try:
            await (await self.connect(sandbox, timeout_s=limits.sandbox_start_timeout_s)).aclose()
        except SandboxLost as exc:
            msg = f"a runner under {limits.docker_runtime} does not reach its link: {exc.detail}"
            raise EngineUnavailable(msg) from exc
        finally:
            await self.stop(sandbox)

    async def aclose(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()
        await self._egress.aclose()
        await self._images.settled()
        await self._engine.aclose()

    async def _remove(self, sandbox_id: str, container: str) -> None:
        await self._engine.run_through(partial(remove_container, name=container))
        await self._let_go(sandbox_id)

    async def _let_go(self, sandbox_id: str) -> None:
        """Give up all of a sandbox that is on this host and not on the engine."""
        link = self._links.pop(sandbox_id, None)
        if link is not None:
            link.close()
        await self._egress.close(sandbox_id)
        await asyncio.to_thread(Link.remove, self._settings.run_dir, sandbox_id)
        self._uids.release(sandbox_id)

    def _link(self, make: Callable[..., Link], sandbox_id: str, uid: int, host: Host) -> Link:
        """Make or reopen a link. Blocks."""
        return make(
            self._settings.run_dir,
            sandbox_id,
            owner=_owner(uid, host),
            peer_uid=uid if host.sees_uids else None,
        )

    async def _ready(self) -> tuple[Host, Uids]:
        """What the engine's host is like, and the user ids that are free there; found out once, before the first start."""
        async with self._looking:
            if self._host is None:
                host = await self._engine.run(lambda client: Host.of(client.info(), self._settings))
                uids = Uids(host.uid_base, host.uid_count)
                for sandbox in await self.owned({}):
                    uids.hold(sandbox.id, int(sandbox.data["uid"]), int(sandbox.data.get(UIDS, "1")))
                await asyncio.to_thread(_write_file, self._hosts, HOSTS)
                self._host, self._uids = host, uids
        return self._host, self._uids


def _owner(uid: int, host: Host) -> int | None:
    return uid if host.gives_files_away else None


def _sandbox(container: str, labels: Mapping[str, str]) -> Sandbox:
    given = [name for name in labels.get(GIVEN, "").split(",") if name]
    return Sandbox(
        id=labels[SANDBOX_ID],
        backend=DockerBackend.name,
        environment_id=labels[ENVIRONMENT_LABEL],
        data={"container": container, "uid": labels[UID], **({UIDS: labels[UID_COUNT]} if UID_COUNT in labels else {})},
        labels={name: labels[name] for name in given},
    )


def _write_file(path: Path, text: str) -> None:
    """A new file under the old name: sandboxes that run have the old one mounted, and keep it."""
    try:
        if path.read_text() == text:
            return
    except FileNotFoundError:
        pass
    new = path.with_name(f".{path.name}-{uuid4().hex}")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)


def _status(state: Mapping[str, Any]) -> SandboxStatus:
    if state["Running"]:
        return SandboxStatus(running=True, reason="running")
    if state["Status"] == "created":  # a crash came between its creation and its start
        return SandboxStatus(running=False, reason="exited")
    return SandboxStatus(running=False, exit_code=state["ExitCode"], reason="oom" if state["OOMKilled"] else "exited")
