import asyncio
import sys
from pathlib import Path

import pytest

from orchestrator.environments.locks import EnvironmentLocks

pytestmark = pytest.mark.anyio

HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


async def test_one_task_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    locks, inside, most = EnvironmentLocks(tmp_path), 0, 0

    async def hold() -> None:
        nonlocal inside, most
        async with locks.held("a"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(hold() for _ in range(5)))
    assert most == 1


async def test_locks_of_two_environments_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    locks = EnvironmentLocks(tmp_path)
    async with locks.held("a"), locks.held("b"), locks.free("c") as free:
        assert free


async def test_whether_it_is_free_is_told_at_once(tmp_path: Path) -> None:
    locks = EnvironmentLocks(tmp_path)
    async with locks.held("a"):
        async with locks.free("a") as free:
            assert not free
        async with locks.free("a") as free:  # the first look did not take it from its holder
            assert not free
    async with locks.free("a") as free:
        assert free


async def test_another_process_is_waited_for_and_the_wait_can_be_given_up(tmp_path: Path) -> None:
    locks = EnvironmentLocks(tmp_path)
    async with locks.held("a"):
        pass
    other = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", HOLD, tmp_path / "locks" / "a"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert other.stdout is not None
    assert await other.stdout.readline() == b"held\n"
    async with locks.free("a") as free:
        assert not free
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), locks.held("a"):
            pass
    other.kill()  # a crash lets go of it
    await other.wait()
    async with asyncio.timeout(60), locks.held("a"):
        pass
