"""Sandboxes that take calls, and what of them can be seen on the host: for suites that hold a backend to the contract."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from orchestrator.records import Resources
from orchestrator.sandboxes.backend import Sandbox, SandboxBackend, SandboxSpec
from orchestrator.sandboxes.channel import RunnerChannel, RunnerConfig
from orchestrator.sandboxes.replies import Reply, Value
from tests.contract.conftest import BackendCase
from tests.security.fake_runner import reply_of

RESOURCES = Resources(memory_mb=256, cpus=1.0, pids=32, disk_mb=16)
START_S = 120.0
CALL_S = 120.0  # however busy the machine
MB = 1024 * 1024


def configuration(**env: str) -> RunnerConfig:
    return RunnerConfig(
        env=env,
        max_reply_bytes=MB,
        max_output_bytes=65_536,
        max_items=10_000,
        orphan_s=60,
        fsize_bytes=RESOURCES.disk_mb * MB,
    )


@dataclass
class Running:
    """A sandbox with its channel, and how to run code in it."""

    backend: SandboxBackend
    sandbox: Sandbox
    channel: RunnerChannel

    async def reply(self, code: str, *, timeout_s: float = CALL_S) -> Reply:
        """The reply to running statements that leave `result`."""
        expression = f"(lambda names: (exec({code!r}, names), names.get('result'))[1])({{}})"
        body = json.dumps({"namepath": ["builtins", "eval"], "args": [expression]}).encode()
        return await reply_of(self.channel, body, timeout_s=timeout_s)

    async def run(self, code: str) -> object:
        """What the statements left in `result`."""
        reply = await self.reply(code)
        assert isinstance(reply, Value), reply
        return json.loads(reply.body)["value"]


async def connected(case: BackendCase, sandbox: Sandbox, backend: SandboxBackend | None = None, **env: str) -> Running:
    backend = backend or case.backend
    channel = await backend.connect(sandbox, timeout_s=START_S)
    await channel.configure(configuration(**env), timeout_s=START_S)
    return Running(backend, sandbox, channel)


@asynccontextmanager
async def started(case: BackendCase, **env: str) -> AsyncIterator[Running]:
    sandbox = await case.backend.start(case.image, SandboxSpec(RESOURCES), labels=case.labels)
    running = await connected(case, sandbox, **env)
    try:
        yield running
    finally:
        await running.channel.aclose()
        await case.backend.stop(sandbox)


async def until(condition: Callable[[], bool], *, within_s: float) -> None:
    """Wait for what has no event to wait for."""
    assert await comes_true(condition, within_s=within_s), "it did not come to pass"


async def comes_true(condition: Callable[[], bool], *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not (found := condition()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return found


def list_run_dir(case: BackendCase) -> list[str]:
    run_dir = case.settings.run_dir
    return [path.name for path in run_dir.iterdir()] if run_dir.exists() else []
