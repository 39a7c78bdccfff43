"""Frozen sandboxes, on every backend that can freeze one."""

import asyncio

import pytest

from orchestrator.errors import SandboxLost
from orchestrator.sandboxes.bubblewrap.cgroups import CgroupSupport
from tests.contract.conftest import BackendCase
from tests.contract.marked import Marked
from tests.contract.running import connected, started, until

pytestmark = pytest.mark.anyio


def can_freeze(case: BackendCase) -> bool:
    return case.backend.name == "docker" or (case.backend.name == "bubblewrap" and CgroupSupport.detect().freezes())


TICKING = """
import builtins, threading, time

def tick():
    last = time.monotonic()
    while True:
        time.sleep(0.005)
        now = time.monotonic()
        builtins.longest, last = max(builtins.longest, now - last), now

builtins.longest = 0
threading.Thread(target=tick, daemon=True).start()
"""
LONGEST = """
import builtins, time

deadline = time.monotonic() + 10
while builtins.longest <= 1.4 and time.monotonic() < deadline:
    time.sleep(0.01)
result = builtins.longest
"""


async def test_a_frozen_sandbox_stands_still_and_goes_on(backend_case: BackendCase) -> None:
    backend = backend_case.backend
    async with started(backend_case) as running:
        await running.run(TICKING)
        await backend.thaw(running.sandbox)  # not frozen: nothing to do
        for _ in range(2):
            assert await backend.freeze(running.sandbox) is can_freeze(backend_case)
        if can_freeze(backend_case):
            assert (await backend.inspect(running.sandbox)).running
            assert running.channel.alive()
            calling = asyncio.create_task(running.run("import builtins; result = builtins.longest"))
            assert (await asyncio.wait([calling], timeout=1.5))[0] == set()
            for _ in range(2):
                await backend.thaw(running.sandbox)
            assert await calling is not None
            assert await running.run(LONGEST) > 1.4
        assert await running.run("import threading; result = threading.active_count()") == 2


async def test_a_frozen_sandbox_is_found_after_a_crash_and_can_be_stopped(
    isolating_case: BackendCase, marked: Marked
) -> None:
    if not can_freeze(isolating_case):
        pytest.skip("no control group of this user's has a freezer")
    async with started(isolating_case) as running:
        await running.run(marked.start())
        await isolating_case.backend.freeze(running.sandbox)
        await running.channel.aclose()
        backend = isolating_case.renewed()
        (found,) = await backend.owned(isolating_case.labels)
        await backend.thaw(found)
        again = await connected(isolating_case, found, backend)
        assert await again.run("result = 1") == 1
        await backend.freeze(found)
        await backend.stop(found)
        assert marked.pids() == []
        assert not again.channel.alive()
        assert await backend.owned(isolating_case.labels) == []
        for change in (backend.freeze, backend.thaw):
            with pytest.raises(SandboxLost):
                await change(found)
        await again.channel.aclose()
        await backend.aclose()


async def test_a_frozen_sandbox_stops_with_grace_and_ends_when_it_is_killed(
    isolating_case: BackendCase, marked: Marked
) -> None:
    backend = isolating_case.backend
    async with started(isolating_case) as running, started(isolating_case) as other:
        await running.run(marked.start())
        for sandbox in (running.sandbox, other.sandbox):
            await backend.freeze(sandbox)
        await backend.stop(running.sandbox, grace_s=1)
        assert marked.pids() == []
        await isolating_case.kill(other.sandbox)
        await backend.stop(other.sandbox)
        await until(lambda: not other.channel.alive(), within_s=5)
