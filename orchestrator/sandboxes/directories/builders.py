"""Builder commands of the backends without an engine: run, watched, ended. What they print and write is hostile."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from orchestrator.sandboxes.bubblewrap.options import Mount
from orchestrator.sandboxes.builder_commands import Ended
from orchestrator.sandboxes.directories.trees import TreeTooDeep, Usage, measure
from orchestrator.sandboxes.layout import VARIABLES

MB = 1024 * 1024
# How often what a builder has written is looked at, at most; looking takes no more than a fifth of the time.
WATCH_S = 0.5
_WATCH_SHARE = 4
_CHUNK_BYTES = 65_536
_QUEUE_CHUNKS = 64


@dataclass(frozen=True, slots=True)
class BuilderJob:
    """One command of an interpreter. Paths in `arguments` are those inside, which `mounts` lead to."""

    interpreter: Path
    arguments: Sequence[str]
    mounts: Sequence[Mount]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class BuilderProcess:
    """A builder that runs; its standard output and error are pipes. `thread` started it and lives as long as it."""

    process: "subprocess.Popen[bytes]"
    thread: ThreadPoolExecutor
    end: Callable[[], None]  # kills all that it started, and waits; blocks
    ran_out_of_memory: Callable[[], bool]  # blocks


class BuilderRuns(Protocol):
    """How a backend runs a builder. When the block is left, nothing of it runs any more; what it wrote stays, to be taken
    over before that. Raises `EngineUnavailable`."""

    def __call__(self, job: BuilderJob) -> AbstractAsyncContextManager[BuilderProcess]: ...


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """What a builder may write to `root`."""

    root: Path
    disk_mb: int
    files: int

    def exceeded(self) -> str | None:
        """The limit that is exceeded, fit for the caller. Blocks."""
        try:
            return self.exceeded_by(measure(self.root, max_files=self.files))
        except TreeTooDeep:
            return "the environment's directories nest too deep"

    def exceeded_by(self, usage: Usage) -> str | None:
        """The same for what was measured."""
        if usage.bytes > self.disk_mb * MB:
            return f"the environment is larger than {self.disk_mb} MB"
        if usage.files > self.files:
            return f"the environment holds more than {self.files} files"
        return None


class WatchedBuilder:
    """A watched builder. Read `output` to its end, then ask `ended`."""

    def __init__(self, running: BuilderProcess, timeout_s: float, limits: WriteLimits | None) -> None:
        self._running = running
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._limits = limits
        self._verdict: str | None = None
        self._chunks: asyncio.Queue[tuple[bytes, bytes] | None] = asyncio.Queue(_QUEUE_CHUNKS)
        self._exited = asyncio.get_running_loop().run_in_executor(running.thread, running.process.wait)
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._read())]

    async def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """What it writes to stdout and stderr, as it comes. It waits where nobody reads. Ends with the builder."""
        while (chunk := await self._chunks.get()) is not None:
            yield chunk

    async def ended(self) -> Ended:
        """Its exit code, or the limit that it went over. Waits for the end."""
        exit_code = await asyncio.shield(self._exited)
        self._tasks[0].cancel()
        if self._verdict is None and await asyncio.to_thread(self._running.ran_out_of_memory):
            self._verdict = "the build ran out of memory"
        return Ended(exit_code, self._verdict)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self) -> None:
        pause_s = WATCH_S
        while self._verdict is None:
            left_s = self._deadline - time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(pause_s, left_s))):
                    await asyncio.shield(self._exited)
                    return
            if time.monotonic() >= self._deadline:
                self._verdict = f"the build took longer than {self._timeout_s:g} s"
            elif self._limits is not None:
                began = time.monotonic()
                self._verdict = await asyncio.to_thread(self._limits.exceeded)
                pause_s = max(WATCH_S, _WATCH_SHARE * (time.monotonic() - began))
        await asyncio.to_thread(self._running.end)

    async def _read(self) -> None:
        process = self._running.process
        await asyncio.gather(
            self._pass_on(process.stdout, lambda data: (data, b"")),
            self._pass_on(process.stderr, lambda data: (b"", data)),
        )
        await self._chunks.put(None)

    async def _pass_on(self, pipe: IO[bytes] | None, pack: Callable[[bytes], tuple[bytes, bytes]]) -> None:
        reader = asyncio.StreamReader(limit=_CHUNK_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            while data := await reader.read(_CHUNK_BYTES):
                await self._chunks.put(pack(data))
        finally:
            transport.close()


@asynccontextmanager
async def building(run: BuilderRuns, job: BuilderJob, limits: WriteLimits | None) -> AsyncIterator[WatchedBuilder]:
    """Run a builder and watch it: its time always, what it writes where there are `limits`. Raises `EngineUnavailable`."""
    async with run(job) as running:
        builder = WatchedBuilder(running, job.timeout_s, limits)
        try:
            yield builder
        finally:
            # First all that could still write or hold the pipes, so that reading ends by itself.
            await asyncio.shield(asyncio.to_thread(running.end))
            await builder.aclose()


@asynccontextmanager
async def run_plainly(job: BuilderJob) -> AsyncIterator[BuilderProcess]:
    """The process backend's way: a child like any other, on the host's own paths. It isolates nothing."""
    async with own_thread() as thread:
        process = await asyncio.get_running_loop().run_in_executor(thread, _start_plainly, job)
        try:
            yield BuilderProcess(process, thread, lambda: _end_group(process), lambda: False)
        finally:
            await asyncio.to_thread(_end_group, process)
            close_pipes(process)


@asynccontextmanager
async def own_thread() -> AsyncIterator[ThreadPoolExecutor]:
    """One thread, for as long as the block lasts: a child that is to die with its parent dies with that thread."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="builder")
    try:
        yield thread
    finally:
        thread.shutdown(wait=False)


def close_pipes(process: "subprocess.Popen[bytes]") -> None:
    """Those of a builder that has ended, and that nobody reads any more."""
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _start_plainly(job: BuilderJob) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [str(job.interpreter), *(_outside(each, job.mounts) for each in job.arguments)],
        env=VARIABLES,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _outside(argument: str, mounts: Sequence[Mount]) -> str:
    for mount in mounts:
        if argument == mount.target or argument.startswith(f"{mount.target}/"):
            return f"{mount.source}{argument.removeprefix(mount.target)}"
    return argument


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
