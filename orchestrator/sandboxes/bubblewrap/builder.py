"""Builder sandboxes under bubblewrap: like a session's, but that what they build can be written."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes.bubblewrap.cgroups import Cgroup, GroupLimits
from orchestrator.sandboxes.bubblewrap.host import Machine
from orchestrator.sandboxes.bubblewrap.launch import Launched, launch
from orchestrator.sandboxes.bubblewrap.options import (
    BUILDER_PIDS,
    builder_argv,
    builder_limits,
    interpreter_prefix,
    tmpfs_files,
)
from orchestrator.sandboxes.directories.builders import BuilderJob, BuilderProcess, close_pipes, own_thread
from orchestrator.sandboxes.uids import Uids
from orchestrator.settings import Settings


class BubblewrapBuilders:
    """`BuilderRuns`. `uids`: one for each builder, none of which a session ever has; None: this process' own, not root."""

    def __init__(self, settings: Settings, machine: Callable[[], Awaitable[Machine]], uids: Uids | None) -> None:
        self._settings = settings
        self._machine = machine
        self._uids = uids

    @asynccontextmanager
    async def __call__(self, job: BuilderJob) -> AsyncIterator[BuilderProcess]:
        machine = await self._machine()
        builder_id = secrets.token_hex(16)
        uid = None if self._uids is None else self._uids.take(builder_id)
        try:
            async with own_thread() as thread:
                starting = asyncio.get_running_loop().run_in_executor(
                    thread, self._start, machine, builder_id, job, uid
                )
                try:
                    launched, group = await asyncio.shield(starting)
                except asyncio.CancelledError:
                    await asyncio.wait({starting})
                    if starting.exception() is None:
                        await asyncio.to_thread(_end, *starting.result())
                    raise
                try:
                    yield BuilderProcess(launched.outer, thread, launched.kill, group.ran_out_of_memory)
                finally:
                    await asyncio.to_thread(_end, launched, group)
        finally:
            if self._uids is not None:
                self._uids.release(builder_id)

    def _start(self, machine: Machine, builder_id: str, job: BuilderJob, uid: int | None) -> tuple[Launched, Cgroup]:
        settings = self._settings
        try:
            prefix = interpreter_prefix(job.interpreter)
        except ValueError as exc:
            raise EngineUnavailable(str(exc)) from exc
        if uid is not None:
            for mount in job.mounts:
                if mount.writable:
                    _give(mount.source, uid)
        limits = builder_limits(
            memory_mb=settings.build_memory_mb,
            disk_mb=settings.build_disk_mb,
            own_uid=uid is not None,
            memory_held=machine.groups.holds("memory"),
        )
        argv = builder_argv(
            machine.host,
            [str(job.interpreter), *job.arguments],
            mounts=job.mounts,
            prefix=prefix,
            tmp_mb=settings.build_memory_mb,
        )
        try:
            group = machine.groups.create(
                builder_id, GroupLimits(settings.build_memory_mb, BUILDER_PIDS, settings.max_cpus)
            )
        except OSError as exc:
            msg = f"no control group could be made for a builder: {exc}"
            raise EngineUnavailable(msg) from exc
        try:
            files = tmpfs_files(settings.build_memory_mb)
            return launch(argv, uid=uid, limits=limits, cgroup=group, files=files, output=True), group
        except BaseException:
            group.remove()
            raise


def _end(launched: Launched, group: Cgroup) -> None:
    launched.kill()
    group.remove()
    close_pipes(launched.outer)


def _give(directory: Path, uid: int) -> None:
    """To the builder's user id; what is in it was written by this server."""
    for parent, _, files in os.walk(directory):
        for path in (Path(parent), *(Path(parent) / name for name in files)):
            os.chown(path, uid, uid, follow_symlinks=False)
