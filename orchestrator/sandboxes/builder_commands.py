"""The builder's three commands, as every backend has them run: to probe a base, to resolve a set of sources, to install.

A backend gives the sandbox; what runs in it, what it is given and what is made of its output is the same for all.
"""

import asyncio
import errno
import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from orchestrator.errors import BuildFailed, Defect, KodouError, NotFound, StoreBusy
from orchestrator.packages.explain import resolve_failure, tail
from orchestrator.packages.index import Index
from orchestrator.packages.uv import ca_bundle, shared_uv
from orchestrator.sandboxes.backend import BuildEvent, BuildOrder, Image
from orchestrator.sandboxes.build_log import BuildLog
from orchestrator.sandboxes.foundation import Foundation, found, missing
from orchestrator.sandboxes.index_proxy import IndexProxy
from orchestrator.sandboxes.layout import BUILD, ENV, INDEX
from orchestrator.sandboxes.workspace import Workspace
from orchestrator.settings import Settings

PROBE_TIMEOUT_S = 60.0
MAX_PROBE_BYTES = 65_536
MAX_LOCK_BYTES = 8 * 1024 * 1024
MB = 1024 * 1024


# Keeps what was built in a workspace, upon a foundation.
Commit = Callable[[Workspace, Foundation | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ended:
    exit_code: int
    verdict: str | None  # why it was ended, if not by itself, fit for the caller


class Builder(Protocol):
    """A builder that runs."""

    def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """What it writes to stdout and stderr, as it comes. It waits where nobody reads. Ends with the builder."""

    async def ended(self) -> Ended:
        """Its exit code, or the limit that it went over. Asked once `output` has ended."""


class Building(Protocol):
    """Starts a builder with an interpreter's base, and ends it however the block is left. Raises `EngineUnavailable`.

    `arguments` follow `boot.py`. The workspace is mounted at BUILD and INDEX; ENV can be written where `writable`, and may
    hold the `foundation` already, or not: then `commit` puts both together. Raises `NotFound`: the foundation is gone.
    """

    def __call__(
        self,
        workspace: Workspace,
        base: str,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        writable: bool = False,
        foundation: Foundation | None = None,
    ) -> AbstractAsyncContextManager[Builder]: ...


class BuilderCommands:
    """What a builder prints is hostile: it is bounded, and taken for nothing but text."""

    def __init__(self, settings: Settings, building: Building) -> None:
        self._settings = settings
        self._building = building

    async def probe(self, base: str) -> bytes:
        """What the probe prints about a base's interpreter. Raises `Defect`: it cannot be used."""
        printed, said = bytearray(), bytearray()
        async with (
            self._workspace() as workspace,
            self._building(workspace, base, ["probe"], timeout_s=PROBE_TIMEOUT_S) as builder,
        ):
            async for out, err in builder.output():
                printed += out[: MAX_PROBE_BYTES - len(printed)]
                said += err[: MAX_PROBE_BYTES - len(said)]
            ended = await builder.ended()
        if ended.exit_code != 0 or ended.verdict is not None:
            msg = f"its Python could not be looked at: {ended.verdict or said.decode(errors='replace').strip()}"
            raise Defect(msg)
        return bytes(printed)

    async def lock(self, base: str, requirements: Sequence[str], *, timeout_s: float) -> str:
        """A lock's text; hostile. Raises `BuildFailed`, `DependencyUnresolvable`, `IndexUnavailable`."""
        settings = self._settings
        lock, said = bytearray(), bytearray()
        async with self._workspace() as workspace, self._index(workspace) as index:
            text = "".join(f"{requirement}\n" for requirement in requirements)
            await workspace.write(workspace.build / "requirements.txt", text.encode())
            arguments = ["lock", "--requirements", f"{BUILD}/requirements.txt", *await self._uv(workspace), *index]
            if settings.exclude_newer is not None:
                arguments += ["--exclude-newer", settings.exclude_newer]
            async with self._building(workspace, base, arguments, timeout_s=timeout_s) as builder:
                async for out, err in builder.output():
                    lock += out[: MAX_LOCK_BYTES + 1 - len(lock)]
                    said += err
                    del said[: -4 * settings.build_log_tail_bytes]
                ended = await builder.ended()
        log_text = said.decode(errors="replace")
        if ended.verdict is not None:
            raise BuildFailed(ended.verdict, log_tail=tail(log_text, settings))
        if ended.exit_code != 0:
            raise resolve_failure(ended.exit_code, log_text, settings=settings, from_source=True)
        if len(lock) > MAX_LOCK_BYTES:
            msg = f"the lock is larger than {MAX_LOCK_BYTES} bytes"
            raise BuildFailed(msg, log_tail="")
        return lock.decode(errors="replace")

    async def install(self, order: BuildOrder, commit: Commit, images: Sequence[Image]) -> AsyncGenerator[BuildEvent]:
        """Install the order's files, or what one of `images` lacks of them; `commit` then keeps the result, before the
        builder goes. Raises `BuildFailed`."""
        foundation = await asyncio.to_thread(found, order, images)
        if foundation is not None:
            with suppress(NotFound):  # pruned meanwhile: all of it anew
                async with aclosing(self._install(order, commit, foundation)) as events:
                    async for event in events:
                        yield event
                return
        async with aclosing(self._install(order, commit, None)) as events:
            async for event in events:
                yield event

    async def _install(
        self, order: BuildOrder, commit: Commit, foundation: Foundation | None
    ) -> AsyncGenerator[BuildEvent]:
        record = BuildLog(tail_bytes=order.log_tail_bytes)
        async with self._workspace() as workspace, self._index_for(order, workspace) as index:
            await workspace.add(missing(order, foundation), into=workspace.files)
            arguments = ["install", "--files", f"{BUILD}/files", "--env", ENV, *await self._uv(workspace), *index]
            async with self._building(
                workspace,
                order.interpreter.base,
                arguments,
                timeout_s=order.timeout_s,
                writable=True,
                foundation=foundation,
            ) as builder:
                async for out, err in builder.output():
                    for event in (*record.stdout(out), *record.stderr(err)):
                        yield event
                ended = await builder.ended()
                if ended.verdict is not None:
                    raise BuildFailed(ended.verdict, log_tail=record.tail())
                if ended.exit_code != 0:
                    raise await asyncio.to_thread(self._failure, ended.exit_code, record.tail())
                yield BuildEvent("commit")
                await commit(workspace, foundation)

    def _failure(self, exit_code: int, log_tail: str) -> KodouError:
        """Why an installer failed. That a disk is full it says itself, and is believed where that can be: a build may take
        more than there is room for. By now it has removed what it wrote."""
        free = shutil.disk_usage(self._settings.builds_dir).free
        if os.strerror(errno.ENOSPC) in log_tail and free < self._settings.build_disk_mb * MB:
            return StoreBusy("the disk that environments are built on is full: try again later")
        return BuildFailed(f"the installer ended with code {exit_code}", log_tail=log_tail)

    def _workspace(self) -> AbstractAsyncContextManager[Workspace]:
        return Workspace.held(self._settings.builds_dir)

    @asynccontextmanager
    async def _index_for(self, order: BuildOrder, workspace: Workspace) -> AsyncIterator[list[str]]:
        """Only a source build has a way to the index: for its build requirements."""
        if not order.from_source:
            yield []
            return
        async with self._index(workspace) as options:
            yield options

    @asynccontextmanager
    async def _index(self, workspace: Workspace) -> AsyncIterator[list[str]]:
        """Open the way to the index; yields the builder's options for it."""
        # Without credentials: what runs inside could print them.
        options = ["--index-url", Index.of(self._settings).url, "--index-proxy", f"{INDEX}/s"]
        authorities = ca_bundle(self._settings)
        if authorities is not None:
            await workspace.write(workspace.build / "ca.pem", await asyncio.to_thread(authorities.read_bytes))
            options += ["--ca", f"{BUILD}/ca.pem"]
        async with IndexProxy.for_index(self._settings).listening(workspace.index):
            yield options

    async def _uv(self, workspace: Workspace) -> list[str]:
        uv = await asyncio.to_thread(shared_uv, self._settings)
        await workspace.add([uv], into=workspace.build)
        return ["--uv", f"{BUILD}/{uv.name}"]
