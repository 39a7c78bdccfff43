"""One builder sandbox on docker, from its creation to its removal. What it prints and writes is hostile."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker import APIClient

from orchestrator.errors import KodouError
from orchestrator.sandboxes.builder_commands import Ended
from orchestrator.sandboxes.directories.trees import TreeTooDeep, Usage, measure
from orchestrator.sandboxes.docker.engine import Engine
from orchestrator.sandboxes.docker.options import MB
from orchestrator.sandboxes.docker.verbs import Attachment, create_container, gone_is_success, remove_container

# How often what a builder has written is looked at, at most; looking takes no more than a fifth of the time.
WATCH_S = 1.0
_WATCH_SHARE = 4


@dataclass(frozen=True, slots=True)
class Limits:
    timeout_s: float
    disk_mb: int
    files: int
    below: Usage  # what its image holds already of the environment


class DockerBuilder:
    """A watched builder. Read `output` to its end, then ask `ended`."""

    def __init__(self, engine: Engine, name: str, attachment: Attachment, limits: Limits, *, writable: bool) -> None:
        self._engine = engine
        self._name = name
        self._attachment = attachment
        self._limits = limits
        self._writable = writable
        self._deadline = time.monotonic() + limits.timeout_s
        self._verdict: str | None = None
        self._watcher = asyncio.create_task(self._watch())

    async def output(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """What it writes to stdout and stderr, as it comes. It waits where nobody reads. Ends with the builder."""
        while (chunk := await self._engine.run(lambda _: self._attachment.read())) is not None:
            yield chunk
        if self._watcher.done():
            await self._watcher  # raises what made it give up

    async def ended(self) -> Ended:
        """Its exit code, or the limit that it went over. Waits for the end."""
        state = await self._engine.run(lambda client: _state_at_end(client, self._name))
        self._watcher.cancel()
        if self._verdict is None and state["OOMKilled"] and state["ExitCode"] != 0:
            self._verdict = "the build ran out of memory"
        if self._verdict is None and self._writable:
            self._verdict = await self._engine.run(self._exceeded)
        return Ended(state["ExitCode"], self._verdict)

    async def aclose(self) -> None:
        """Stop watching."""
        self._watcher.cancel()
        await asyncio.gather(self._watcher, return_exceptions=True)

    async def _watch(self) -> None:
        pause_s = WATCH_S
        try:
            while self._verdict is None:
                left_s = self._deadline - time.monotonic()
                await asyncio.sleep(max(0.0, min(pause_s, left_s)))
                began = time.monotonic()
                if began >= self._deadline:
                    self._verdict = f"the build took longer than {self._limits.timeout_s:g} s"
                elif self._writable:
                    self._verdict = await self._engine.run(self._exceeded)
                    pause_s = max(WATCH_S, _WATCH_SHARE * (time.monotonic() - began))
            await self._engine.run(lambda client: _kill(client, self._name))
        except KodouError:
            await asyncio.to_thread(self._attachment.close)  # the engine is gone: let the reader see it
            raise

    def _exceeded(self, client: APIClient) -> str | None:
        """The limit on its layer that it went over, fit for the caller."""
        limits = self._limits
        try:
            usage = layer_usage(client, self._name, max_files=limits.files)
        except TreeTooDeep:
            return "the environment's directories nest too deep"
        if usage.bytes + limits.below.bytes > limits.disk_mb * MB:
            return f"the environment is larger than {limits.disk_mb} MB"
        if usage.files + limits.below.files > limits.files:
            return f"the environment holds more than {limits.files} files"
        return None


@asynccontextmanager
async def building(
    engine: Engine,
    name: str,
    body: dict[str, Any],
    limits: Limits,
    *,
    writable: bool,
    behind: Callable[[Coroutine[Any, Any, None]], None] | None,
) -> AsyncIterator[DockerBuilder]:
    """Start a builder sandbox called `name`; it is removed when the block is left, however that comes: by `behind`, if
    given, where all went well. Raises `NotFound` if its image is gone, `EngineUnavailable`."""
    attachments: list[Attachment] = []

    def start(client: APIClient) -> None:
        create_container(client, name, body)
        attachments.append(Attachment(client, name))  # before the start: nothing is missed
        client.start(name)

    builder: DockerBuilder | None = None
    try:
        await engine.run_through(start)
        builder = DockerBuilder(engine, name, attachments[0], limits, writable=writable)
        yield builder
        await builder.aclose()
    except BaseException:
        if builder is not None:
            await builder.aclose()
        await engine.run_through(lambda client: _end(client, name, attachments))
        raise
    if behind is None:
        await engine.run_through(lambda client: _end(client, name, attachments))
    else:
        behind(engine.run(lambda client: _end(client, name, attachments)))


def _layer_bytes(client: APIClient, name: str) -> int:
    """What a container has written to its root, as the engine counts it."""
    found = client.containers(all=True, size=True, filters={"name": f"^/{name}$"})
    return int(found[0].get("SizeRw", 0)) if found else 0


def layer_usage(client: APIClient, name: str, *, max_files: int) -> Usage:
    """What a container has written to its root; counting ends past `max_files`. Blocks. Raises `TreeTooDeep`."""
    layer = client.inspect_container(name)["GraphDriver"].get("Data") or {}
    upper = Path(layer.get("UpperDir", ""))
    try:
        return measure(upper, max_files=max_files)
    except OSError:  # the engine's files are not ours to read: ask it, which takes a second and more
        return Usage(_layer_bytes(client, name), len(client.diff(name) or ()))


def _state_at_end(client: APIClient, name: str) -> dict[str, Any]:
    client.wait(name)
    state: dict[str, Any] = client.inspect_container(name)["State"]
    return state


def _kill(client: APIClient, name: str) -> None:
    with gone_is_success():
        client.kill(name)


def _end(client: APIClient, name: str, attachments: list[Attachment]) -> None:
    # The removal of a container hangs while an attached stream is not drained, so these go first.
    for attachment in attachments:
        attachment.close()
    remove_container(client, name)
