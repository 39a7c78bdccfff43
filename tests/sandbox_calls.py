"""Starting a sandbox and running code in it, for suites of any backend."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from orchestrator.records import Resources
from orchestrator.sandboxes.backend import Image, Sandbox, SandboxBackend, SandboxSpec
from orchestrator.sandboxes.channel import RunnerChannel, RunnerConfig
from orchestrator.sandboxes.replies import Value
from tests.security.fake_runner import reply_of

RESOURCES = Resources(memory_mb=256, cpus=1.0, pids=32, disk_mb=16)
SPEC = SandboxSpec(RESOURCES)
START_S = 120.0  # however busy the machine
CALL_S = 120.0
MB = 1024 * 1024


class Calls:
    """A sandbox that takes calls."""

    def __init__(self, sandbox: Sandbox, channel: RunnerChannel) -> None:
        self.sandbox = sandbox
        self.channel = channel

    async def run(self, code: str) -> Any:
        """What the statements leave in `result`."""
        expression = f"(lambda names: (exec({code!r}, names), names.get('result'))[1])({{}})"
        body = json.dumps({"namepath": ["builtins", "eval"], "args": [expression]}).encode()
        reply = await reply_of(self.channel, body, timeout_s=CALL_S)
        assert isinstance(reply, Value), reply
        return json.loads(reply.body)["value"]


@asynccontextmanager
async def running(backend: SandboxBackend, image: Image, spec: SandboxSpec = SPEC) -> AsyncIterator[Calls]:
    """A sandbox of an image; it is stopped when the block is left."""
    sandbox = await backend.start(image, spec, labels={})
    try:
        yield await connected(backend, sandbox)
    finally:
        await backend.stop(sandbox)


async def connected(backend: SandboxBackend, sandbox: Sandbox) -> Calls:
    channel = await backend.connect(sandbox, timeout_s=START_S)
    await channel.configure(
        RunnerConfig(
            env={}, max_reply_bytes=MB, max_output_bytes=65_536, max_items=10_000, orphan_s=60, fsize_bytes=64 * MB
        ),
        timeout_s=START_S,
    )
    return Calls(sandbox, channel)
