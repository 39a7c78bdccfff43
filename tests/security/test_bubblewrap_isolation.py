"""What is bubblewrap's own: above all the three ways in which starting a sandbox wrongly would lose it. (What every backend
holds is tried in `test_isolation.py`.)"""

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestrator.errors import Forbidden
from orchestrator.sandboxes.backend import Sandbox, SandboxSpec
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend, check, promises
from orchestrator.sandboxes.directories.handles import is_same_process
from orchestrator.settings import Settings
from tests.bubblewrap_fixtures import BubblewrapData
from tests.sandbox_calls import RESOURCES, SPEC, Calls, connected, running

pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="without root all sandboxes have the server's own user id")

# Tries a piece of code; `result` says how it ended.
ATTEMPT = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
try:
    {code}
    result = "done"
except OSError as exc:
    result = "refused"
"""


@pytest.fixture
async def calls(bubblewrap_data: BubblewrapData, bubblewrap_backend: BubblewrapBackend) -> AsyncIterator[Calls]:
    async with running(bubblewrap_backend, bubblewrap_data.image) as running_calls:
        yield running_calls
        await running_calls.channel.aclose()


async def attempt(calls: Calls, code: str) -> str:
    outcome: str = await calls.run(ATTEMPT.format(code=code))
    return outcome


def inside(sandbox: Sandbox) -> list[int]:
    """The host's ids of all processes of a sandbox: those in the process namespace of its first."""
    namespace = Path(f"/proc/{sandbox.data['pid']}/ns/pid").stat().st_ino
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/pid"):
        try:
            if path.stat().st_ino == namespace:
                found.append(int(path.parts[2]))
        except OSError:
            continue
    return found


def groups_of(sandbox: Sandbox) -> list[str]:
    """Its control groups that are there."""
    return [path for path in sandbox.data["cgroups"].split(os.pathsep) if path and Path(path).exists()]


def environments(sandbox: Sandbox) -> dict[int, str]:
    """What every process of a sandbox was started with, as the host sees it; bubblewrap's own outside process, too."""
    outside = int(Path(f"/proc/{sandbox.data['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    return {pid: Path(f"/proc/{pid}/environ").read_text() for pid in (outside, *inside(sandbox))}


# --- trap 1: started by root, it would be the host's root behind a user namespace ---


@root_only
async def test_on_the_host_no_process_of_a_sandbox_is_anybody_else_than_its_own_user(
    calls: Calls, bubblewrap_data: BubblewrapData
) -> None:
    uid = calls.sandbox.data["uid"]
    settings = bubblewrap_data.settings
    assert settings.sandbox_uid_base <= int(uid) < settings.sandbox_uid_base + settings.sandbox_uid_count
    processes = await asyncio.to_thread(inside, calls.sandbox)
    assert len(processes) >= 2
    for pid in processes:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())  # noqa: ASYNC240
        assert status["Uid"].split() == status["Gid"].split() == [uid] * 4
        assert status["Groups"].split() in ([], [uid])


# --- trap 2: bubblewrap's own environment would show in /proc/1/environ ---


async def test_no_variable_of_the_server_is_in_any_process(
    bubblewrap_data: BubblewrapData, bubblewrap_backend: BubblewrapBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "canary-4711")
    async with running(bubblewrap_backend, bubblewrap_data.image) as calls:
        assert "canary" not in json.dumps(await calls.run("import os; result = dict(os.environ)"))
        seen = await asyncio.to_thread(environments, calls.sandbox)
        assert len(seen) >= 2
        assert "canary" not in str(seen)
        variables = {entry.partition("=")[0] for entry in seen[int(calls.sandbox.data["pid"])].split("\0") if entry}
        assert variables - {"PWD"} == {"PATH", "HOME", "TMPDIR", "LANG"}
        await calls.channel.aclose()


# --- trap 3: `--die-with-parent` would end it with the thread that started it ---


def test_a_sandbox_outlives_the_thread_and_the_loop_that_started_it(bubblewrap_data: BubblewrapData) -> None:
    started: list[Sandbox] = []

    async def start() -> None:
        backend = BubblewrapBackend(bubblewrap_data.settings)
        started.append(await backend.start(bubblewrap_data.image, SPEC, labels={}))
        await backend.aclose()

    thread = threading.Thread(target=asyncio.run, args=(start(),))
    thread.start()
    thread.join()

    async def use() -> int:
        backend = BubblewrapBackend(bubblewrap_data.settings)
        calls = await connected(backend, started[0])
        answer: int = await calls.run("result = 6 * 7")
        await calls.channel.aclose()
        await backend.stop(started[0])
        await backend.aclose()
        return answer

    assert asyncio.run(use()) == 42


# --- namespaces (what is refused by system call: `test_isolation.py`) ---


async def test_no_program_that_raises_rights_can(calls: Calls) -> None:
    status = "{line.partition(':')[0]: line.partition(':')[2].strip() for line in open('/proc/1/status')}"
    found = await calls.run(f"result = {status}")
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert [found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == ["0" * 16] * 5


async def test_a_socket_of_the_host_cannot_be_reached(calls: Calls) -> None:
    name = f"\0kodou-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as abstract, socket.create_server(("127.0.0.1", 0)) as server:
        abstract.bind(name)
        abstract.listen()
        assert await attempt(calls, f"socket.socket(socket.AF_UNIX).connect({name!r})") == "refused"
        assert await attempt(calls, f"socket.create_connection({server.getsockname()!r}, 2)") == "refused"


@pytest.fixture
def shared_memory() -> Iterator[int]:
    """The key of a System V segment of the host that everybody may read."""
    key = secrets.randbits(31)
    subprocess.run(["ipcmk", "--version"], check=True, capture_output=True)
    code = f"import ctypes; print(ctypes.CDLL(None).shmget({key}, 4096, 0o1666))"
    number = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert int(number) >= 0
    yield key
    subprocess.run(["ipcrm", "-m", number], check=True)


async def test_shared_memory_of_the_host_cannot_be_found(calls: Calls, shared_memory: int) -> None:
    assert await attempt(calls, f"syscall(29, {shared_memory}, 4096, 0o666)") == "refused"  # shmget


async def test_killing_everybody_hits_nobody_else(
    bubblewrap_data: BubblewrapData, bubblewrap_backend: BubblewrapBackend, calls: Calls
) -> None:
    async with running(bubblewrap_backend, bubblewrap_data.image) as other:
        await attempt(other, "os.kill(-1, 9)")
        assert await calls.run("result = 1") == 1
        await other.channel.aclose()


# --- files ---


async def test_nothing_of_the_host_is_there_but_what_programs_need(
    calls: Calls, bubblewrap_data: BubblewrapData
) -> None:
    entries = set(await calls.run("import os; result = os.listdir('/')"))
    allowed = {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "opt", "proc", "run", "sbin", "tmp", "usr"}
    assert entries <= allowed
    assert await calls.run("import os; result = sorted(os.listdir('/opt/kodou') + os.listdir('/run'))") == [
        "env",
        "kodou",
        "lib",
    ]
    for path in ("/etc/shadow", "/root", "/sys", "/var", "/home", str(bubblewrap_data.settings.data_dir)):
        assert await attempt(calls, f"os.stat({path!r})") == "refused"
    assert await calls.run("import pwd; result = [entry.pw_name for entry in pwd.getpwall()]") == [
        "root",
        "sandbox",
        "nobody",
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/dev",
        "/etc",
        "/opt/kodou",
        "/opt/kodou/env/bin",
        "/opt/kodou/lib/runner",
        "/run",
        "/run/kodou",
        "/usr/bin",
    ],
)
async def test_nothing_can_be_made_or_changed_where_code_comes_from(calls: Calls, path: str) -> None:
    assert await attempt(calls, f"open({path!r} + '/planted', 'w')") == "refused"
    assert await attempt(calls, f"os.chmod({path!r}, 0o777)") == "refused"
    assert await attempt(calls, f"os.rename({path!r}, '/tmp/moved')") == "refused"


@pytest.mark.parametrize("path", ["/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/kallsyms", "/proc/timer_list"])
async def test_what_tells_of_the_kernel_is_masked(calls: Calls, path: str) -> None:
    assert await attempt(calls, f"assert open({path!r}, 'rb').read(1) == b''; raise OSError") == "refused"


async def test_no_descriptor_of_the_host_is_open_in_any_process(calls: Calls) -> None:
    code = """
import glob, os
result = {}
for path in glob.glob("/proc/[0-9]*/fd/*"):
    try:
        result[path] = os.readlink(path)
    except OSError:
        pass
"""
    targets = set((await calls.run(code)).values())
    unexpected = {
        target
        for target in targets
        if not target.startswith(("socket:", "pipe:", "anon_inode:", "/proc", "/dev/null", "/memfd:std"))
    }
    assert not unexpected


@pytest.mark.parametrize(("path", "bound_mb"), [("/tmp", RESOURCES.disk_mb), ("/dev/shm", RESOURCES.disk_mb)])
async def test_memory_file_systems_are_bounded_in_size_and_number(calls: Calls, path: str, bound_mb: int) -> None:
    found = await calls.run(f"import os; s = os.statvfs({path!r}); result = [s.f_blocks * s.f_frsize, s.f_files]")
    assert found[0] == bound_mb * 1024**2
    if os.geteuid() == 0:
        assert found[1] == bound_mb * 256


async def test_what_is_written_to_standard_error_goes_nowhere_and_takes_no_room(calls: Calls) -> None:
    code = """
import os
written = 0
try:
    for _ in range(1000):
        written += os.write(os.open("/proc/1/fd/2", os.O_WRONLY | os.O_APPEND), bytes(65536))
except OSError:
    pass
result = written
"""
    assert await calls.run(code) <= 16_384


# --- the backend ---


async def test_egress_is_refused_and_not_silently_left_out(
    bubblewrap_data: BubblewrapData, bubblewrap_backend: BubblewrapBackend
) -> None:
    with pytest.raises(Forbidden):
        await bubblewrap_backend.start(bubblewrap_data.image, SandboxSpec(RESOURCES, network="egress"), labels={})


async def test_user_ids_of_builders_are_never_those_of_sessions(bubblewrap_backend: BubblewrapBackend) -> None:
    uids = bubblewrap_backend._uids
    if uids is None:
        pytest.skip("without root all sandboxes have the server's own user id")
    sessions = {uids.sessions._base + n for n in range(uids.sessions._count)}
    builders = {uids.builders._base + n for n in range(uids.builders._count)}
    assert builders.isdisjoint(sessions)


@root_only
async def test_after_a_crash_user_ids_in_use_are_not_given_again(bubblewrap_data: BubblewrapData, calls: Calls) -> None:
    uid = int(calls.sandbox.data["uid"])
    settings = bubblewrap_data.settings.model_copy(update={"sandbox_uid_base": uid, "sandbox_uid_count": 65})
    again = BubblewrapBackend(settings)
    with pytest.raises(Exception, match="user ids"):
        await again.start(bubblewrap_data.image, SPEC, labels={})
    await again.aclose()


@root_only
async def test_a_sandbox_whose_server_crashed_as_it_started_is_found_and_ended(
    bubblewrap_data: BubblewrapData, bubblewrap_backend: BubblewrapBackend
) -> None:
    labels = {"io.kodou.test-run": secrets.token_hex(8)}
    sandbox = await bubblewrap_backend.start(bubblewrap_data.image, SPEC, labels=labels)
    known = {name: sandbox.data[name] for name in ("uid", "cgroups")}
    early = Sandbox(sandbox.id, sandbox.backend, sandbox.environment_id, known, labels)
    await asyncio.to_thread(bubblewrap_backend._handles.write, early)  # what there was before it ran
    again = BubblewrapBackend(bubblewrap_data.settings)
    (found,) = await again.owned(labels)
    await again.stop(found)
    await again.aclose()
    pid, start_time = int(sandbox.data["pid"]), sandbox.data["start_time"]
    assert not await asyncio.to_thread(is_same_process, pid, start_time)
    assert groups_of(sandbox) == []
    await bubblewrap_backend.stop(sandbox)


@pytest.mark.slow
async def test_thirty_at_once_start_apart_and_leave_nothing(
    bubblewrap_data: BubblewrapData, bubblewrap_backend: BubblewrapBackend
) -> None:
    settings = bubblewrap_data.settings
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    async def one() -> Calls:
        sandbox = await bubblewrap_backend.start(bubblewrap_data.image, SPEC, labels={})
        return await connected(bubblewrap_backend, sandbox)

    started = await asyncio.gather(*(one() for _ in range(30)))
    assert await asyncio.gather(*(calls.run("result = 1") for calls in started)) == [1] * 30
    if os.geteuid() == 0:
        assert len({calls.sandbox.data["uid"] for calls in started}) == 30
    assert all(groups_of(calls.sandbox) for calls in started) or not os.access("/sys/fs/cgroup", os.W_OK)
    await asyncio.gather(*(calls.channel.aclose() for calls in started))
    await asyncio.gather(*(bubblewrap_backend.stop(calls.sandbox) for calls in started))
    assert [groups_of(calls.sandbox) for calls in started] == [[]] * 30
    assert list(settings.run_dir.iterdir()) == []
    assert await bubblewrap_backend.owned({}) == []
    assert str(settings.data_dir) not in Path("/proc/self/mounts").read_text()  # noqa: ASYNC240
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208


async def test_what_cannot_be_had_is_told(bubblewrap_data: BubblewrapData, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await check(bubblewrap_data.settings) is None
    held = {promise.name: promise.held for promise in await promises(bubblewrap_data.settings)}
    assert held["namespaces"]
    assert held["system call filter"]
    assert held["no network"]
    monkeypatch.setattr("orchestrator.sandboxes.bubblewrap.host.TOOLS_PATH", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "not installed" in (await check(bubblewrap_data.settings) or "")
    (broken,) = await promises(bubblewrap_data.settings)
    assert not broken.held


@root_only
def test_a_data_directory_that_sandboxes_cannot_reach_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    reason = asyncio.run(check(Settings(data_dir=tmp_path / "data", backend="bubblewrap")))
    assert reason is not None
    assert "Permission denied" in reason


@root_only
def test_a_server_is_tried_beside_another_that_builds(
    bubblewrap_data: BubblewrapData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.sandboxes.bubblewrap.host.BUILD_UIDS", 1)
    base = 100_000 * secrets.choice(range(50, 100))
    settings = bubblewrap_data.settings.model_copy(update={"sandbox_uid_base": base, "sandbox_uid_count": 2})
    builder = [subprocess.Popen(["/usr/bin/sleep", "infinity"], user=base + 1) for _ in range(20)]
    try:
        assert asyncio.run(check(settings)) is None
    finally:
        for process in builder:
            process.kill()
            process.wait()
