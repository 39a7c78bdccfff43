"""Attacks on docker's sandboxes and builder sandboxes, each named after the promise that has to hold; those that are not
about the host's kernel run under gVisor too (`test_gvisor_isolation.py`).

What every isolating backend promises is held by `tests/contract/test_isolation.py`; here is what an engine adds.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from orchestrator.errors import BuildFailed
from orchestrator.sandboxes.backend import BuildEvent, BuildOrder
from orchestrator.sandboxes.build_log import MAX_EVENTS
from orchestrator.sandboxes.docker.backend import DockerBackend
from tests.docker_fixtures import DockerBase, build_order, docker_settings
from tests.made_packages import sdist, wheel
from tests.sandbox_calls import Calls, running

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

MB = 1024 * 1024
UNREACHABLE = {101, 113}  # ENETUNREACH, EHOSTUNREACH: kernels differ in what they say of no route


@pytest.fixture
async def calls(docker_backend: DockerBackend, docker_base: DockerBase) -> AsyncIterator[Calls]:
    async with running(docker_backend, docker_base.image) as started:
        yield started


def host_pid(base: DockerBase, calls: Calls) -> int:
    return int(base.engine.inspect_container(calls.sandbox.data["container"])["State"]["Pid"])


def namespace(pid: int | str, kind: str) -> str:
    return str(Path(f"/proc/{pid}/ns/{kind}").readlink())


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# --- as the host sees it ---


async def test_its_processes_hold_no_right_of_the_host(calls: Calls, docker_base: DockerBase) -> None:
    seen = status(host_pid(docker_base, calls))
    uid = calls.sandbox.data["uid"]
    assert seen["Uid"].split() == seen["Gid"].split() == [uid] * 4
    assert seen["Groups"] in ("", uid)
    assert {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert seen["NoNewPrivs"] == "1"
    assert seen["Seccomp"] == "2"


@pytest.mark.parametrize("kind", ["net", "pid", "mnt", "ipc", "uts", "cgroup"])
async def test_it_has_namespaces_of_its_own(calls: Calls, docker_base: DockerBase, kind: str) -> None:
    assert namespace(host_pid(docker_base, calls), kind) != namespace("self", kind)


async def test_swap_adds_no_memory_and_the_host_ends_it_before_the_server(
    calls: Calls, docker_base: DockerBase
) -> None:
    host = docker_base.engine.inspect_container(calls.sandbox.data["container"])["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 256 * MB
    assert oom_score(host_pid(docker_base, calls)) == 500


# --- as it sees itself ---


async def test_nothing_of_the_host_is_mounted_but_its_link_and_names(calls: Calls) -> None:
    # Fields 4 and 5 of mountinfo: what of which file system, and where. Those of the image begin at its own root.
    mounts = await calls.run("result = [line.split()[3:5] for line in open('/proc/self/mountinfo')]")
    host = {target for source, target in mounts if source not in ("/",) and not target.startswith(("/proc", "/sys"))}
    assert host <= {"/run/kodou", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}


async def test_no_engine_can_be_reached(calls: Calls) -> None:
    assert await calls.run("import glob; result = glob.glob('/run/**/*.sock', recursive=True)") == []
    assert await calls.run("import os; result = os.listdir('/run/kodou')") == ["s"]


async def test_it_sees_no_network_but_its_loopback(calls: Calls) -> None:
    routes = "result = [open('/proc/net/route').read().count('\\n'), open('/proc/net/ipv6_route').read().count(' lo')]"
    assert (await calls.run(routes))[0] <= 1  # the heading
    connect = """
import socket
result = []
for address in ("172.17.0.1", "169.254.169.254", "10.0.0.1", "1.1.1.1"):
    with socket.socket() as s:
        s.settimeout(2)
        result.append(s.connect_ex((address, 80)))
"""
    assert set(await calls.run(connect)) <= UNREACHABLE


@pytest.mark.parametrize(
    "path",
    ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/1/oom_score_adj", "/sys/fs/cgroup/memory.max"],
)
async def test_the_kernel_takes_no_settings_from_it(calls: Calls, path: str) -> None:
    attempt = f"""
try:
    with open({path!r}, "w") as file:
        file.write("-1000")
    result = "written"
except OSError as exc:
    result = type(exc).__name__
"""
    assert await calls.run(attempt) != "written"


# Numbers of x86-64 and, where they differ, of 64-bit ARM.
SYSCALLS = {
    "io_uring_setup": (425, 425, "1, 0"),
    "unshare a user namespace": (272, 97, "0x10000000"),
    "mount": (165, 40, "b'none', b'/tmp', b'tmpfs', 0, 0"),
    "bpf": (321, 280, "0, 0, 0"),
    "perf_event_open": (298, 241, "0, 0, -1, -1, 0"),
    "userfaultfd": (323, 282, "0"),
    "add_key": (248, 217, "b'user', b'k', b'v', 1, -3"),
    "init_module": (175, 105, "0, 0, b''"),
    "open_by_handle_at": (304, 265, "0, 0, 0"),
    "process_vm_readv of another": (310, 270, "1, 0, 0, 0, 0, 0"),
}


@pytest.mark.parametrize("name", SYSCALLS)
async def test_dangerous_system_calls_are_refused(calls: Calls, name: str) -> None:
    x86, arm, arguments = SYSCALLS[name]
    code = f"""
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
number = {x86} if platform.machine() == "x86_64" else {arm}
result = [libc.syscall(number, {arguments}), errno.errorcode.get(ctypes.get_errno())]
"""
    returned, error = await calls.run(code)
    assert returned == -1
    assert error in ("EPERM", "ENOSYS", "EACCES")


@pytest.mark.parametrize(("family", "kind"), [(40, 1), (38, 5), (17, 3), (2, 3), (29, 3)])
async def test_sockets_of_unusual_kinds_are_refused(calls: Calls, family: int, kind: int) -> None:
    """vsock, the kernel's crypto, packets, raw IP, CAN."""
    attempt = f"""
import socket
try:
    socket.socket({family}, {kind}).close()
    result = "made"
except OSError as exc:
    result = exc.errno
"""
    assert await calls.run(attempt) != "made"


async def test_no_file_gives_more_rights_than_its_user_has(calls: Calls) -> None:
    code = """
import os, shutil, subprocess
found = subprocess.run(["find", "/", "-xdev", "-perm", "/6000", "-type", "f"], capture_output=True, text=True)
result = [subprocess.run([p], capture_output=True).returncode == 0 and p for p in found.stdout.split() if p.endswith("/su")]
"""
    assert not any(await calls.run(code))


async def test_shared_memory_is_small_and_counts_as_memory(calls: Calls) -> None:
    fill = """
size = 0
try:
    with open("/dev/shm/x", "wb") as file:
        for _ in range(100):
            size += file.write(bytes(1024 * 1024))
            file.flush()
except OSError as exc:
    pass
import os
result = os.path.getsize("/dev/shm/x")
os.unlink("/dev/shm/x")
"""
    assert await calls.run(fill) <= 16 * MB


async def test_a_crash_writes_no_core(calls: Calls) -> None:
    assert await calls.run("import resource; result = resource.getrlimit(resource.RLIMIT_CORE)") == [0, 0]


async def test_what_it_prints_is_kept_nowhere(calls: Calls, docker_base: DockerBase) -> None:
    await calls.run("import os; os.write(1, b'x' * 1000000); os.write(2, b'x' * 1000000)")
    container = docker_base.engine.inspect_container(calls.sandbox.data["container"])
    assert container["HostConfig"]["LogConfig"]["Type"] == "none"
    assert container["LogPath"] == ""


# --- builds ---


@pytest.fixture
def environment_id(docker_base: DockerBase) -> Iterator[str]:
    chosen = f"test-{secrets.token_hex(6)}"
    yield chosen
    with suppress(docker.errors.ImageNotFound):
        docker_base.engine.remove_image(f"kodou/env:{chosen}", force=True)


async def build(backend: DockerBackend, order: BuildOrder, events: list[BuildEvent] | None = None) -> None:
    async for event in backend.images.build(order):
        if events is not None:
            events.append(event)


async def limited(base: DockerBase, data_dir: Path, **limits: Any) -> DockerBackend:
    return DockerBackend(docker_settings(data_dir, base.name, **limits))


HOSTILE_BUILDS = {
    "writes more than it may in one file": (
        "open('/opt/kodou/env/x', 'wb').truncate(0)\n"
        "with open('/opt/kodou/env/x', 'wb') as f:\n    for _ in range(64): f.write(bytes(1 << 20))",
        {"build_disk_mb": 32},
        "larger than 32 MB|ended with code",
    ),
    "writes more than it may in many": (
        "import time\nfor n in range(64):\n    open(f'/opt/kodou/env/{n}', 'wb').write(bytes(1 << 20))\ntime.sleep(600)",
        {"build_disk_mb": 40},
        "larger than 40 MB",
    ),
    "makes more files than it may": (
        "import time\nfor n in range(4000): open(f'/opt/kodou/env/{n}', 'w').close()\ntime.sleep(600)",
        {"build_files": 3500},
        "more than 3500 files",
    ),
    "nests directories without end": (
        "import os, time\nos.chdir('/opt/kodou/env')\nfor n in range(3000):\n    os.mkdir('d'); os.chdir('d')\ntime.sleep(600)",
        {},
        "nest too deep",
    ),
    "takes more memory than it may": (
        "held = [bytearray(b'x' * (1 << 20)) for _ in range(1000)]",
        {"build_memory_mb": 192},
        "ran out of memory",
    ),
    "fills memory through its files in /tmp": (
        "import time\nwith open('/tmp/x', 'wb') as f:\n    for _ in range(1000): f.write(bytes(1 << 20))",
        {"build_memory_mb": 192},
        "ran out of memory|ended with code",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE_BUILDS)
async def test_a_build_is_ended_that(
    name: str,
    docker_base: DockerBase,
    docker_runtime: str | None,
    open_tmp_path: Path,
    tmp_path: Path,
    environment_id: str,
) -> None:
    code, limits, said = HOSTILE_BUILDS[name]
    backend = await limited(docker_base, open_tmp_path, docker_runtime=docker_runtime, **limits)
    source = sdist(tmp_path, at_build=code)
    async with asyncio.timeout(200):  # long before it would end by itself
        with pytest.raises(BuildFailed, match=said):
            await build(backend, build_order(environment_id, docker_base.interpreter, source, from_source=True))
    assert await backend.images.find(environment_id) is None
    await backend.aclose()


async def test_a_build_that_does_not_end_is_ended(
    docker_backend: DockerBackend, docker_base: DockerBase, tmp_path: Path, environment_id: str
) -> None:
    daemon = (
        "import os, signal, time\nif os.fork() == 0: os.setsid()\nsignal.signal(15, signal.SIG_IGN)\ntime.sleep(600)"
    )
    order = build_order(
        environment_id, docker_base.interpreter, sdist(tmp_path, at_build=daemon), from_source=True, timeout_s=4
    )
    async with asyncio.timeout(120):
        with pytest.raises(BuildFailed, match="longer than 4 s"):
            await build(docker_backend, order)


async def test_a_build_that_prints_without_end_fills_nothing(
    docker_backend: DockerBackend, docker_base: DockerBase, tmp_path: Path, environment_id: str
) -> None:
    shout = "import os\nfor n in range(200000): os.write(2, b'line %d\\n' % n)\nraise SystemExit(1)"
    order = build_order(
        environment_id, docker_base.interpreter, sdist(tmp_path, at_build=shout), from_source=True, timeout_s=60
    )
    events: list[BuildEvent] = []
    with pytest.raises(BuildFailed) as caught:
        await build(docker_backend, order, events)
    assert len(caught.value.log_tail) <= order.log_tail_bytes
    assert len(events) <= MAX_EVENTS + 1


async def test_a_build_can_write_its_environment_and_tmp_and_nothing_else(
    docker_backend: DockerBackend, docker_base: DockerBase, tmp_path: Path, environment_id: str
) -> None:
    look = """
import os
found = []
for place, names, files in os.walk("/"):
    names[:] = [name for name in names if os.path.join(place, name) not in ("/proc", "/sys", "/dev", "/tmp")]
    for path in [place, *(os.path.join(place, file) for file in files)]:
        if os.access(path, os.W_OK, follow_symlinks=False) and not os.path.islink(path):
            found.append(path)
module = "found = " + repr([path for path in found if not path.startswith("/opt/kodou/env")])
"""
    order = build_order(environment_id, docker_base.interpreter, sdist(tmp_path, at_build=look), from_source=True)
    await build(docker_backend, order)
    image = await docker_backend.images.find(environment_id)
    assert image is not None
    async with running(docker_backend, image) as calls:
        assert set(await calls.run("import fromsource; result = fromsource.found")) <= {"/run/kodou-index/s"}


async def test_a_build_cannot_change_the_files_that_others_install(
    docker_backend: DockerBackend, docker_base: DockerBase, tmp_path: Path, environment_id: str
) -> None:
    other = wheel(tmp_path)
    before = other.read_bytes()
    attack = f"""
import os
path = "/build/files/{other.name}"
for attempt in (lambda: open(path, "ab").write(b"x"), lambda: os.chmod(path, 0o777), lambda: os.unlink(path)):
    try:
        attempt()
    except OSError:
        continue
    raise RuntimeError("the store was changed")
"""
    order = build_order(
        environment_id, docker_base.interpreter, sdist(tmp_path, at_build=attack), other, from_source=True
    )
    await build(docker_backend, order)
    assert other.read_bytes() == before


async def test_a_build_reaches_the_index_and_nothing_else(
    docker_backend: DockerBackend, docker_base: DockerBase, tmp_path: Path, environment_id: str
) -> None:
    attack = """
import os, socket
answers = []
for target in (b"CONNECT 169.254.169.254:80 HTTP/1.1", b"CONNECT localhost:22 HTTP/1.1", b"GET http://172.17.0.1/ HTTP/1.1"):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("/run/kodou-index/s")
        s.sendall(target + b"\\r\\n\\r\\n")
        answers.append(s.recv(100).split()[1].decode())
with socket.socket() as s:
    answers.append(s.connect_ex(("172.17.0.1", 80)))
module = "answers = " + repr(answers)
"""
    order = build_order(environment_id, docker_base.interpreter, sdist(tmp_path, at_build=attack), from_source=True)
    await build(docker_backend, order)
    image = await docker_backend.images.find(environment_id)
    assert image is not None
    async with running(docker_backend, image) as calls:
        answers = await calls.run("import fromsource; result = fromsource.answers")
    assert answers[:3] == ["403"] * 3
    assert answers[3] in UNREACHABLE


async def test_what_a_build_left_running_or_planted_has_no_power_over_sessions(
    docker_backend: DockerBackend, docker_base: DockerBase, tmp_path: Path, environment_id: str
) -> None:
    plant = """
import os, shutil
shutil.copy("/bin/sh", "/opt/kodou/env/sh")
os.chmod("/opt/kodou/env/sh", 0o6755)
os.symlink("/etc/shadow", "/opt/kodou/env/link")
os.mkfifo("/opt/kodou/env/pipe")
"""
    order = build_order(environment_id, docker_base.interpreter, sdist(tmp_path, at_build=plant), from_source=True)
    await build(docker_backend, order)
    image = await docker_backend.images.find(environment_id)
    assert image is not None
    async with running(docker_backend, image) as calls:
        uid = int(calls.sandbox.data["uid"])
        command = ["/opt/kodou/env/sh", "-pc", "id -u"]
        assert int(await calls.run(f"import subprocess; result = subprocess.check_output({command}).decode()")) == uid
        assert uid not in (0, os.getuid(), 10_001)
        write = "import os; result = os.access('/opt/kodou/env', os.W_OK) or os.access('/opt/kodou/env/bin/python', os.W_OK)"
        assert await calls.run(write) is False
