"""What every backend promises. Held against each in `conftest.CASES`."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
from runner import frames

from orchestrator.errors import NotFound, SandboxLost
from orchestrator.sandboxes.backend import SandboxSpec
from orchestrator.sandboxes.replies import Reply, TimedOut, Violation, WorkerDied
from orchestrator.sandboxes.work import Work
from tests.contract.conftest import BackendCase
from tests.contract.marked import Marked
from tests.contract.running import CALL_S, RESOURCES, comes_true, connected, list_run_dir, started, until

pytestmark = pytest.mark.anyio


async def test_a_started_sandbox_answers_calls(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        assert running.sandbox.backend == backend_case.backend.name
        assert running.sandbox.environment_id == backend_case.image.environment_id
        assert (await backend_case.backend.inspect(running.sandbox)).running
        assert running.channel.alive()
        assert await running.run("import math; result = math.sqrt(16)") == 4


async def test_calls_of_a_session_share_state(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        await running.run("import builtins; builtins.kept = 7")
        assert await running.run("result = kept") == 7


async def test_configured_variables_are_set(backend_case: BackendCase) -> None:
    async with started(backend_case, GREETING="héllo = 1") as running:
        assert await running.run("import os; result = os.environ['GREETING']") == "héllo = 1"


async def test_two_sandboxes_are_apart(backend_case: BackendCase) -> None:
    async with started(backend_case) as one, started(backend_case) as other:
        assert one.sandbox.id != other.sandbox.id
        await one.run("import builtins, os; builtins.kept = 1; open(os.path.expanduser('~/file'), 'w').close()")
        assert await other.run("import builtins; result = hasattr(builtins, 'kept')") is False
        assert await other.run("import os; result = os.listdir(os.path.expanduser('~'))") == []
        await backend_case.backend.stop(one.sandbox)
        assert await other.run("result = 1") == 1


async def test_a_timeout_kills_all_that_the_call_started(backend_case: BackendCase, marked: Marked) -> None:
    async with started(backend_case) as running:
        await running.run("import builtins; builtins.kept = 1")
        endless = "import threading\nthreading.Thread(target=any, args=(iter(int, 1),)).start()\n"
        for timeout_s in (3.0, 20.0, 100.0):  # as long as the machine takes to start them
            calling = asyncio.create_task(
                running.reply(f"{marked.start()}\n{endless}\nwhile True: pass", timeout_s=timeout_s)
            )
            both_ran = await comes_true(lambda: len(marked.pids()) == 2, within_s=timeout_s)
            assert await asyncio.wait_for(calling, timeout_s + CALL_S) == TimedOut()
            # The sandbox lives on, its interpreter is fresh.
            assert (await backend_case.backend.inspect(running.sandbox)).running
            assert await running.run("import builtins; result = hasattr(builtins, 'kept')") is False
            assert marked.pids() == []
            if both_ran:
                break
        assert both_ran


async def test_a_sleeping_call_times_out_as_well(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        for _ in range(3):
            began = time.monotonic()
            assert await running.reply("import time; time.sleep(600)", timeout_s=0.2) == TimedOut()
            # How late, is no machine's to say: see `unit/sandboxes/test_channel.py`.
            assert 0.2 <= time.monotonic() - began < CALL_S


@pytest.mark.parametrize(
    ("code", "died"),
    [
        ("import os; os._exit(7)", WorkerDied(7, None)),
        ("import os; os.kill(os.getpid(), 9)", WorkerDied(None, 9)),
        ("import ctypes; ctypes.string_at(0)", WorkerDied(None, 11)),
    ],
)
async def test_a_worker_that_dies_is_told_and_replaced(backend_case: BackendCase, code: str, died: WorkerDied) -> None:
    async with started(backend_case, GREETING="hello") as running:
        assert await running.reply(code) == died
        assert await running.run("import os; result = os.environ['GREETING']") == "hello"
        assert running.channel.alive()


async def test_a_worker_whose_connection_its_call_closed_is_replaced(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        assert await running.reply("import os; os.closerange(3, 5000)") == WorkerDied(None, None)
        assert await running.run("result = 1") == 1


async def test_a_composition_that_is_cut_off_tells_its_place(backend_case: BackendCase) -> None:
    async def reply(items: str, function: str, timeout_s: float = CALL_S) -> Reply:
        operation = {"op": "map", "function": function}
        body = json.dumps({"args": [items], "pipeline": ["json.loads", operation, "len"]}).encode()
        return (await running.channel.call(Work(frames.COMPOSE, body), timeout_s=timeout_s)).reply

    async with started(backend_case) as running:
        for _ in range(20):  # a busy machine may not tell it by the time that the client is to hear
            timed_out = await reply("[0, 600]", "time.sleep", timeout_s=2)
            if timed_out != TimedOut():
                break
        assert timed_out == TimedOut({"stage": 1, "item": 1})
        assert await reply('["0", "0", "__import__(\'os\')._exit(3)"]', "eval") == WorkerDied(
            3, None, {"stage": 1, "item": 2}
        )
        assert await running.reply("import os; os._exit(4)") == WorkerDied(4, None)


async def test_a_worker_that_dies_leaves_no_process(backend_case: BackendCase, marked: Marked) -> None:
    async with started(backend_case) as running:
        await running.run(marked.start())
        await until(lambda: len(marked.pids()) == 2, within_s=CALL_S)
        assert await running.reply("import os; os._exit(0)") == WorkerDied(0, None)
        await until(lambda: marked.pids() == [], within_s=CALL_S)


async def test_a_sandbox_killed_from_outside_ends_its_channel(backend_case: BackendCase, marked: Marked) -> None:
    async with started(backend_case) as running:
        calling = asyncio.create_task(running.reply(f"{marked.start()}\nimport time; time.sleep(600)"))
        await until(lambda: len(marked.pids()) == 2, within_s=CALL_S)
        await backend_case.kill(running.sandbox)
        assert isinstance(await asyncio.wait_for(calling, CALL_S), Violation)
        assert not running.channel.alive()
        for _ in range(10_000):  # its connections end a moment before it does
            status = await backend_case.backend.inspect(running.sandbox)
            if not status.running:
                break
            await asyncio.sleep(0.01)
        assert (status.running, status.reason == "running") == (False, False)
        with pytest.raises(SandboxLost):
            await backend_case.backend.connect(running.sandbox, timeout_s=5)


async def test_an_image_that_is_gone_is_not_found(backend_case: BackendCase) -> None:
    image = backend_case.image
    gone = replace(image, environment_id=f"{image.environment_id}-gone", ref=f"{image.ref}-gone")
    with pytest.raises(NotFound):
        await backend_case.backend.start(gone, SandboxSpec(RESOURCES), labels=backend_case.labels)
    assert list_run_dir(backend_case) == []


async def test_stopping_leaves_nothing_and_may_happen_twice(backend_case: BackendCase, marked: Marked) -> None:
    backend = backend_case.backend
    async with started(backend_case) as running:
        await running.run(marked.start())
        await until(lambda: len(marked.pids()) == 2, within_s=CALL_S)
        for _ in range(2):
            await backend.stop(running.sandbox)
            assert marked.pids() == []
            assert list_run_dir(backend_case) == []
            assert await backend.owned(backend_case.labels) == []
            status = await backend.inspect(running.sandbox)
            assert (status.running, status.reason) == (False, "gone")


async def test_stopping_with_grace_leaves_nothing_either(backend_case: BackendCase, marked: Marked) -> None:
    async with started(backend_case) as running:
        await running.run(marked.start())
        began = time.monotonic()
        await backend_case.backend.stop(running.sandbox, grace_s=1)
        assert time.monotonic() - began < CALL_S
        assert marked.pids() == []
        assert list_run_dir(backend_case) == []


async def test_stopping_one_that_nobody_connected_to(backend_case: BackendCase) -> None:
    backend = backend_case.backend
    sandbox = await backend.start(backend_case.image, SandboxSpec(RESOURCES), labels=backend_case.labels)
    await backend.stop(sandbox)
    assert list_run_dir(backend_case) == []
    assert await backend.owned(backend_case.labels) == []


async def test_owned_are_those_with_all_the_labels(backend_case: BackendCase) -> None:
    backend = backend_case.backend
    labels = {**backend_case.labels, "io.kodou.session": "s1"}
    sandbox = await backend.start(backend_case.image, SandboxSpec(RESOURCES), labels=labels)
    assert [found.id for found in await backend.owned(backend_case.labels)] == [sandbox.id]
    assert [found.id for found in await backend.owned(labels)] == [sandbox.id]
    assert await backend.owned({**labels, "io.kodou.session": "s2"}) == []


async def test_after_a_crash_sandboxes_are_found_and_taken_up_with_their_state(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        await running.run("import builtins; builtins.kept = 11")
        await running.channel.aclose()  # as the end of the server's process would
        backend = backend_case.renewed()
        (found,) = await backend.owned(backend_case.labels)
        assert (found.id, found.backend, found.environment_id) == (
            running.sandbox.id,
            running.sandbox.backend,
            running.sandbox.environment_id,
        )
        assert dict(found.data) == dict(running.sandbox.data)
        again = await connected(backend_case, found, backend)
        assert await again.run("result = kept") == 11
        await again.channel.aclose()
        await backend.stop(found)
        await backend.aclose()
        assert list_run_dir(backend_case) == []


async def test_a_call_that_a_crash_interrupted_hinders_nobody(backend_case: BackendCase, marked: Marked) -> None:
    async with started(backend_case) as running:
        calling = asyncio.create_task(running.reply(f"{marked.start()}\nimport time; time.sleep(600)", timeout_s=600))
        await until(lambda: len(marked.pids()) == 2, within_s=CALL_S)
        await running.channel.aclose()
        await calling
        again = await connected(backend_case, running.sandbox)
        assert await again.run("result = 1") == 1
        assert marked.pids() == []
        await again.channel.aclose()


async def test_the_link_is_the_only_file_shared(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        directory = backend_case.settings.run_dir / running.sandbox.id
        assert "s" in {path.name for path in directory.iterdir()}
        assert not list(directory.rglob("*.json"))
