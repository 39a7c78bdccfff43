"""What every backend promises, and what every one that isolates promises besides. Held against each in `conftest.CASES`."""

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.errors import NotFound, SandboxLost
from orchestrator.records import Resources
from orchestrator.sandboxes.backend import Sandbox, SandboxBackend, SandboxSpec
from orchestrator.sandboxes.bubblewrap.cgroups import CgroupSupport
from orchestrator.sandboxes.channel import RunnerChannel, RunnerConfig
from orchestrator.sandboxes.replies import Raised, Reply, TimedOut, Value, Violation, WorkerDied
from tests.contract.conftest import BackendCase
from tests.security.fake_runner import reply_of

pytestmark = pytest.mark.anyio

RESOURCES = Resources(memory_mb=256, cpus=1.0, pids=32, disk_mb=16)
START_S = 60.0
CALL_S = 30.0
SLACK_S = 0.25  # of a call that ends at its deadline
TRIES = 10  # the best of them counts: other work on this machine is not what is measured
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


@dataclass(frozen=True)
class Marked:
    """Processes of a sandbox that this host can tell from all others, by a word in their command."""

    word: str

    def start(self) -> str:
        """Statements that start a child with the word, and a daemon that left its parents' session."""
        sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        return f"""
import os, subprocess, sys
command = [sys.executable, "-c", {sleeper!r}, {self.word!r}]
subprocess.Popen(command)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(command[0], command)
    os._exit(0)
"""

    def pids(self) -> list[int]:
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                words = (directory / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if self.word.encode() in words:
                found.append(int(directory.name))
        return found

    def user_ids(self) -> set[int]:
        """Whose they are, as this host sees it."""
        return {Path(f"/proc/{pid}").stat().st_uid for pid in self.pids()}


@pytest.fixture
def marked() -> Marked:
    return Marked(f"marked-{secrets.token_hex(8)}")


async def until(condition: Callable[[], bool], *, within_s: float) -> None:
    """Wait for what has no event to wait for."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


# --- every backend ---


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
    timeout_s = 5.0
    async with started(backend_case) as running:
        await running.run("import builtins; builtins.kept = 1")
        endless = "import threading\nthreading.Thread(target=any, args=(iter(int, 1),)).start()\n"
        calling = asyncio.create_task(
            running.reply(f"{marked.start()}\n{endless}\nwhile True: pass", timeout_s=timeout_s)
        )
        await until(lambda: len(marked.pids()) == 2, within_s=timeout_s)
        assert await asyncio.wait_for(calling, CALL_S) == TimedOut()
        assert marked.pids() == []
        # The sandbox lives on, its interpreter is fresh.
        assert (await backend_case.backend.inspect(running.sandbox)).running
        assert await running.run("import builtins; result = hasattr(builtins, 'kept')") is False


async def test_a_sleeping_call_times_out_as_well(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        late_s = []
        for _ in range(TRIES):
            began = time.monotonic()
            assert await running.reply("import time; time.sleep(60)", timeout_s=0.2) == TimedOut()
            late_s.append(time.monotonic() - began - 0.2)
            if len(late_s) >= 3 and min(late_s) < SLACK_S:
                break
        assert 0 <= min(late_s) < SLACK_S


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


async def test_a_worker_that_dies_leaves_no_process(backend_case: BackendCase, marked: Marked) -> None:
    async with started(backend_case) as running:
        await running.run(marked.start())
        await until(lambda: len(marked.pids()) == 2, within_s=CALL_S)
        assert await running.reply("import os; os._exit(0)") == WorkerDied(0, None)
        await until(lambda: marked.pids() == [], within_s=CALL_S)


async def test_a_sandbox_killed_from_outside_ends_its_channel(backend_case: BackendCase, marked: Marked) -> None:
    async with started(backend_case) as running:
        calling = asyncio.create_task(running.reply(f"{marked.start()}\nimport time; time.sleep(60)"))
        await until(lambda: len(marked.pids()) == 2, within_s=CALL_S)
        await backend_case.kill(running.sandbox)
        assert isinstance(await asyncio.wait_for(calling, CALL_S), Violation)
        assert not running.channel.alive()
        for _ in range(3000):  # its connections end a moment before it does
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


async def test_the_link_is_the_only_file_shared(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        directory = backend_case.settings.run_dir / running.sandbox.id
        assert "s" in {path.name for path in directory.iterdir()}
        assert not list(directory.rglob("*.json"))


def list_run_dir(case: BackendCase) -> list[str]:
    run_dir = case.settings.run_dir
    return [path.name for path in run_dir.iterdir()] if run_dir.exists() else []


# --- every backend that isolates ---


async def test_no_network_is_there(isolating_case: BackendCase) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with started(isolating_case) as running:
            assert await running.run("import socket; result = [n for _, n in socket.if_nameindex()]") == ["lo"]
            for address in (("1.1.1.1", 53), server.getsockname()):
                reply = await running.reply(f"import socket; socket.create_connection({address!r}, 2)")
                assert isinstance(reply, Raised)


async def test_nothing_runs_with_rights(isolating_case: BackendCase, marked: Marked) -> None:
    async with started(isolating_case) as running:
        status = "dict(line.split(':', 1) for line in open('/proc/self/status'))"
        code = f"s = {status}; result = [s[k].strip() for k in ('CapEff', 'CapPrm', 'CapBnd', 'NoNewPrivs', 'Seccomp')]"
        effective, permitted, _, no_new_privileges, seccomp = await running.run(code)
        assert int(effective, 16) == int(permitted, 16) == 0
        assert (no_new_privileges, seccomp) == ("1", "2")
        assert await running.run("import os; result = os.getuid()") != 0
        # What the host says counts: behind a user namespace the inside may look as it likes.
        await running.run(marked.start())
        await until(lambda: len(marked.pids()) == 2, within_s=CALL_S)
        assert 0 not in marked.user_ids()


async def test_each_sandbox_has_a_user_id_of_its_own(isolating_case: BackendCase, marked: Marked) -> None:
    async with started(isolating_case) as one, started(isolating_case) as other:
        for running in (one, other):
            await running.run(marked.start())
        await until(lambda: len(marked.pids()) == 4, within_s=CALL_S)
        # Without root there are none to give: all run under the server's own.
        assert len(marked.user_ids()) == (2 if os.geteuid() == 0 else 1)


@pytest.mark.parametrize("directory", ["/", "/usr", "/etc", "/opt/kodou/env", "/opt/kodou/lib/runner", "/run/kodou"])
async def test_nothing_but_tmp_can_be_written(isolating_case: BackendCase, directory: str) -> None:
    async with started(isolating_case) as running:
        reply = await running.reply(f"open({directory!r} + '/file', 'w')")
        assert isinstance(reply, Raised)
        assert json.loads(reply.body)["exception"]["type"] in {"OSError", "PermissionError", "FileNotFoundError"}


async def test_the_link_cannot_be_replaced(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        for code in ("import os; os.unlink('/run/kodou/s')", "import os; os.rename('/run/kodou/s', '/run/kodou/t')"):
            assert isinstance(await running.reply(code), Raised)
        assert await running.run("result = 1") == 1


async def test_other_processes_cannot_be_seen(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        listing = "[n for n in __import__('os').listdir('/proc') if n.isdecimal()]"
        pids = [int(name) for name in await running.run(f"result = {listing}")]
        assert len(pids) < 8
        assert max(pids) < 1000
        words = await running.run(f"result = [open(f'/proc/{{n}}/cmdline').read() for n in {listing}]")
        assert not [word for word in words if "pytest" in word]


async def test_the_servers_variables_cannot_be_seen(
    isolating_case: BackendCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = f"canary-{secrets.token_hex(8)}"
    monkeypatch.setenv("KODOU_CANARY", canary)
    async with started(isolating_case, GREETING="hello") as running:
        names = await running.run("import os; result = sorted(os.environ)")
        assert {"GREETING", "HOME", "LANG", "PATH", "TMPDIR"} <= set(names)
        assert [name for name in names if name.startswith("KODOU")] == []
        code = """
import glob
result = ""
for path in glob.glob("/proc/*/environ"):
    try:
        result += open(path, errors="replace").read()
    except OSError:
        pass
"""
        assert canary not in str(await running.run(code))


async def test_tmp_is_bounded(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        code = f"""
import os
written = 0
try:
    for n in range(4):
        with open(f"/tmp/{{n}}", "wb") as file:
            for _ in range({RESOURCES.disk_mb}):
                written += file.write(bytes({MB}))
except OSError as exc:
    result = [exc.errno, written]
"""
        error, written = await running.run(code)
        assert error in {28, 122}  # ENOSPC, EDQUOT
        assert written <= RESOURCES.disk_mb * MB


async def test_files_in_tmp_are_bounded_in_number(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        code = """
try:
    for n in range(1_000_000):
        open(f"/tmp/{n}", "w").close()
except OSError as exc:
    result = exc.errno
"""
        reply = await running.reply(code)
        if isinstance(reply, Value):
            assert json.loads(reply.body)["value"] == 28  # ENOSPC
        else:  # they count as its memory, which ended it
            assert isinstance(reply, WorkerDied | Violation)


async def test_memory_is_bounded(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        code = f"kept = []\nfor _ in range(64): kept.append(bytearray(b'x') * {RESOURCES.memory_mb // 16 * MB})"
        reply = await running.reply(code)
        assert isinstance(reply, Raised | WorkerDied | Violation)
        if isinstance(reply, Raised):
            assert json.loads(reply.body)["exception"]["type"] == "MemoryError"


async def test_processes_are_bounded(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        code = """
import os
count = 0
try:
    while count < 1000:
        if os.fork() == 0:
            import time
            time.sleep(60)
            os._exit(0)
        count += 1
except OSError:
    result = count
"""
        assert await running.run(code) < RESOURCES.pids
        # And the bound is no trap: the next deadline finds its way.
        assert await running.reply("while True: pass", timeout_s=0.5) == TimedOut()
        assert await running.run("result = 1") == 1


async def test_descriptors_of_the_server_are_not_inherited(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        code = """
import os
result = []
for name in os.listdir("/proc/self/fd"):
    try:
        result.append(os.readlink(f"/proc/self/fd/{name}"))
    except OSError:
        pass
"""
        targets = await running.run(code)
        assert targets
        assert not [target for target in targets if str(isolating_case.settings.data_dir) in target]
        # The call connection, and nothing else that leads out.
        assert len([target for target in targets if target.startswith("socket:")]) == 1
