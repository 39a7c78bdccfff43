"""ProcessBackend: the runner as a plain child of the server. It isolates nothing: for tests and development.

What runs in it has the server's own rights and sees its files, network and processes. Files remember a sandbox
(`handles.py`), and it outlives the server that started it, as with the other backends.
"""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from orchestrator.errors import EngineUnavailable, InvalidRequest, SandboxLost
from orchestrator.sandboxes.backend import Image, ImageStore, Sandbox, SandboxSpec, SandboxStatus
from orchestrator.sandboxes.channel import RunnerChannel
from orchestrator.sandboxes.directories.builders import run_plainly
from orchestrator.sandboxes.directories.handles import HandleFiles, is_same_process, process_start_time
from orchestrator.sandboxes.directories.images import BuiltDirectory, DirectoryImages
from orchestrator.sandboxes.link import SOCKET_NAME, Link, opened
from orchestrator.sandboxes.socket_channel import greet
from orchestrator.settings import Settings

_POLL_S = 0.005
# For processes that the kernel cannot end at once, and for those that fork as they are killed.
_KILL_S = 10.0


class DirectoryStore(ImageStore, Protocol):
    """An image store whose images lie on this host."""

    def located(self, image: Image) -> BuiltDirectory:
        """Where its parts are. Blocks. Raises `NotFound` if the image is gone."""


class ProcessBackend:
    name = "process"

    def __init__(self, settings: Settings, images: DirectoryStore | None = None) -> None:
        self._run_dir = settings.run_dir
        self._handles = HandleFiles(settings.data_dir / "handles" / self.name)
        self._links: dict[str, Link] = {}  # of sandboxes that nobody has connected to yet
        self._children: dict[str, subprocess.Popen[bytes]] = {}  # those that this very server started
        self._images = images or DirectoryImages(settings, backend=self.name, run=run_plainly, handles=self._handles)
        self.images: ImageStore = self._images

    async def start(self, image: Image, spec: SandboxSpec, *, labels: Mapping[str, str]) -> Sandbox:
        if spec.network != "none":
            msg = "the process backend has no egress: what runs in it has the server's own network anyway"
            raise InvalidRequest(msg, field="network")
        return await asyncio.to_thread(self._start, image, labels)

    async def connect(self, sandbox: Sandbox, *, timeout_s: float) -> RunnerChannel:
        link = self._links.pop(sandbox.id, None)
        if link is None:
            try:
                link = await opened(partial(Link.reopen, self._run_dir, sandbox.id, peer_uid=os.geteuid()))
            except OSError as exc:
                msg = f"the link of sandbox {sandbox.id} is gone"
                raise SandboxLost(msg) from exc

        async def ended() -> str | None:
            status = await self.inspect(sandbox)
            return None if status.running else status.reason

        return await greet(link, timeout_s, ended=ended)

    async def inspect(self, sandbox: Sandbox) -> SandboxStatus:
        if await asyncio.to_thread(is_same_process, int(sandbox.data["pid"]), sandbox.data["start_time"]):
            return SandboxStatus(running=True, reason="running")
        child = self._children.get(sandbox.id)
        if child is None:
            return SandboxStatus(running=False, reason="gone")
        return SandboxStatus(running=False, exit_code=child.returncode, reason="exited")

    async def freeze(self, sandbox: Sandbox) -> bool:
        return False

    async def thaw(self, sandbox: Sandbox) -> None:
        if not (await self.inspect(sandbox)).running:
            msg = f"sandbox {sandbox.id} has ended"
            raise SandboxLost(msg)

    async def stop(self, sandbox: Sandbox, *, grace_s: float = 0.0) -> None:
        await asyncio.to_thread(self._stop, sandbox, grace_s)

    async def owned(self, labels: Mapping[str, str]) -> list[Sandbox]:
        found = await asyncio.to_thread(self._handles.all)
        return [sandbox for sandbox in found if labels.items() <= sandbox.labels.items()]

    async def aclose(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()

    # --- the rest blocks ---

    def _start(self, image: Image, labels: Mapping[str, str]) -> Sandbox:
        built = self._images.located(image)
        sandbox_id = uuid4().hex
        link = Link.create(self._run_dir, sandbox_id, peer_uid=os.geteuid())
        child = None
        try:
            child = _spawn(built, link.directory)
            start_time = process_start_time(child.pid)
            if start_time is None:
                msg = f"the runner of environment {image.environment_id} ended at once"
                raise EngineUnavailable(msg)
            data = {"pid": str(child.pid), "start_time": start_time}
            sandbox = Sandbox(sandbox_id, self.name, image.environment_id, data, dict(labels))
            self._handles.write(sandbox)
        except BaseException as exc:
            link.close()
            _kill_all(_Members(None if child is None else child.pid, _home(link.directory)))
            Link.remove(self._run_dir, sandbox_id)
            if isinstance(exc, OSError):
                msg = f"the runner of environment {image.environment_id} could not be started: {exc.strerror}"
                raise EngineUnavailable(msg) from exc
            raise
        self._children[sandbox_id] = child
        self._links[sandbox_id] = link
        return sandbox

    def _stop(self, sandbox: Sandbox, grace_s: float) -> None:
        pid, start_time = int(sandbox.data["pid"]), sandbox.data["start_time"]
        deadline = time.monotonic() + grace_s
        if grace_s > 0 and is_same_process(pid, start_time):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            while is_same_process(pid, start_time) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        root = pid if is_same_process(pid, start_time) else None
        _kill_all(_Members(root, _home(self._run_dir / sandbox.id)))
        link = self._links.pop(sandbox.id, None)
        if link is not None:
            link.close()
        self._children.pop(sandbox.id, None)
        Link.remove(self._run_dir, sandbox.id)
        self._handles.remove(sandbox.id)


class _Members:
    """The processes of a sandbox: its supervisor, all below it, and all that carry its home in their environment.

    The environment finds those that lost their parents, the tree those that were started with another environment.
    """

    def __init__(self, root: int | None, home: Path) -> None:
        self._root = root
        self._mark = f"\0HOME={home}\0".encode()

    def found(self) -> set[int]:
        """Their process ids, at this moment; those that have ended left out."""
        members: set[int] = set()
        children: dict[int, list[int]] = {}
        for pid, parent, environment in _processes():
            children.setdefault(parent, []).append(pid)
            if pid == self._root or self._mark in b"\0" + environment:
                members.add(pid)
        below = list(members)
        while below:
            below = [child for pid in below for child in children.get(pid, ()) if child not in members]
            members.update(below)
        return members - {os.getpid()}


def _home(directory: Path) -> Path:
    """The sandbox's /tmp, HOME and working directory. Its path is random, and so tells its processes from all others."""
    return directory / "tmp"


def _spawn(built: BuiltDirectory, directory: Path) -> "subprocess.Popen[bytes]":
    home = _home(directory)
    home.mkdir(mode=0o700)
    child = subprocess.Popen(
        [built.env / "bin" / "python", "-I", built.library / "runner" / "boot.py", directory / SOCKET_NAME],
        env={
            "PATH": f"{built.env}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "TMPDIR": str(home),
            "LANG": "C.UTF-8",
        },
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    # Collected as soon as it ends, whoever stops it; and it may go on when this process is done with it.
    threading.Thread(target=child.wait, name=f"runner-{child.pid}", daemon=True).start()
    return child


def _kill_all(members: _Members) -> None:
    deadline = time.monotonic() + _KILL_S
    while (found := members.found()) and time.monotonic() < deadline:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _processes() -> Iterator[tuple[int, int, bytes]]:
    """Process id, parent and environment of every process that has not ended; the environment empty where unreadable."""
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (directory / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            if state in (b"Z", b"X"):
                continue
            environment = b""
            with suppress(PermissionError):
                environment = (directory / "environ").read_bytes()
            yield int(directory.name), int(parent), environment
