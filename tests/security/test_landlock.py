"""Landlock under bubblewrap: the second wall stands where the first would let through, and programs do not run into it."""

import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runner import landlock

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes.backend import BuildOrder, Image
from orchestrator.sandboxes.bubblewrap import backend as bubblewrap
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend, check, promises
from orchestrator.sandboxes.bubblewrap.options import session_argv
from tests.bubblewrap_fixtures import BubblewrapData
from tests.made_packages import Member, wheel_of
from tests.sandbox_calls import Calls, running

pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]

needed = pytest.mark.skipif(landlock.abi() < landlock.LEAST_ABI, reason="this kernel has no Landlock that serves")
scoped = pytest.mark.skipif(landlock.abi() < landlock.SCOPES_SINCE, reason="this kernel's Landlock has no scopes")

REACH = """
seen = {}
for name, attempt in {
    "read": lambda: open("/srv/secret").read(),
    "write": lambda: open("/srv/secret", "w"),
    "make": lambda: open("/srv/new", "w"),
    "run": lambda: __import__("subprocess").check_call(["/srv/program"]),
}.items():
    try:
        attempt()
        seen[name] = "done"
    except OSError as exc:
        seen[name] = type(exc).__name__
result = seen
"""
ALL = ("read", "write", "make", "run")


@dataclass(frozen=True)
class Hole:
    """A directory of the host that a mistake lets be seen and written in a sandbox, at /srv."""

    path: Path


@pytest.fixture
def hole(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hole]:
    path = Path(tempfile.mkdtemp(prefix="kodou-test-"))
    path.chmod(0o777)
    (path / "secret").write_text("of the host")
    (path / "secret").chmod(0o666)
    shutil.copy("/bin/true", path / "program")
    reworked(monkeypatch, lambda argv: inserted(argv, ["--bind", str(path), "/srv"]))
    yield Hole(path)
    shutil.rmtree(path)


def reworked(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[str]], list[str]]) -> None:
    """Have the backend start its sessions with other arguments."""
    monkeypatch.setattr(bubblewrap, "session_argv", lambda *args, **options: change(session_argv(*args, **options)))


def inserted(argv: list[str], mount: list[str]) -> list[str]:
    at = argv.index("--remount-ro", argv.index("--bind") if "--bind" in argv else argv.index("/run/kodou"))
    return [*argv[:at], *mount, *argv[at:]]


@asynccontextmanager
async def started(data: BubblewrapData, image: Image | None = None, **settings: Any) -> AsyncIterator[Calls]:
    backend = BubblewrapBackend(data.settings.model_copy(update=settings))
    try:
        async with running(backend, image or data.image) as calls:
            yield calls
            await calls.channel.aclose()
    finally:
        await backend.aclose()


async def test_without_it_such_a_mount_would_be_a_hole(bubblewrap_data: BubblewrapData, hole: Hole) -> None:
    async with started(bubblewrap_data, landlock="off") as calls:
        assert await calls.run(REACH) == dict.fromkeys(ALL, "done")


@needed
async def test_what_a_mount_lets_be_seen_by_mistake_is_refused(bubblewrap_data: BubblewrapData, hole: Hole) -> None:
    async with started(bubblewrap_data) as calls:
        assert await calls.run(REACH) == dict.fromkeys(ALL, "PermissionError")
    assert (hole.path / "secret").read_text() == "of the host"


@needed
async def test_rules_of_its_own_give_nothing_back(bubblewrap_data: BubblewrapData, hole: Hole) -> None:
    relax = """
import importlib.util
spec = importlib.util.spec_from_file_location("landlock", "/opt/kodou/lib/runner/landlock.py")
landlock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(landlock)
landlock.restrict(["/", "/srv"], ["/", "/srv"])
"""
    async with started(bubblewrap_data) as calls:
        assert await calls.run(relax + REACH) == dict.fromkeys(ALL, "PermissionError")


@scoped
async def test_a_network_left_open_by_mistake_leads_to_no_abstract_socket(
    bubblewrap_data: BubblewrapData, monkeypatch: pytest.MonkeyPatch
) -> None:
    reworked(monkeypatch, lambda argv: [word for word in argv if word != "--unshare-net"])
    name = f"kodou-{secrets.token_hex(8)}"
    code = f"""
import socket
try:
    socket.socket(socket.AF_UNIX).connect("\\0{name}")
    result = "connected"
except OSError as exc:
    result = type(exc).__name__
"""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        async with started(bubblewrap_data, landlock="off") as calls:
            assert await calls.run(code) == "connected"
        async with started(bubblewrap_data) as calls:
            assert await calls.run(code) == "PermissionError"


@needed
async def test_nothing_of_an_environment_runs_before_the_rules_hold(
    bubblewrap_data: BubblewrapData, bubblewrap_backend: BubblewrapBackend, hole: Hole, tmp_path: Path
) -> None:
    (interpreter, *_) = await bubblewrap_backend.images.interpreters()
    read = "open(f'/tmp/pth-{os.getpid()}','w').write(os.popen('cat /srv/secret 2>&1').read())"
    package = wheel_of(
        tmp_path,
        {
            "early.pth": Member(f"import os; {read}\n"),
            "early-1.0.data/data/pyvenv.cfg": Member("home = /opt/kodou/env/bin\n"),
        },
        name="early",
    )
    order = BuildOrder("test-early", interpreter, [package], False, {}, timeout_s=60, log_tail_bytes=4096)
    async for _ in bubblewrap_backend.images.build(order):
        pass
    image = await bubblewrap_backend.images.find("test-early")
    assert image is not None
    try:
        async with started(bubblewrap_data, image) as calls:
            listing = "import pathlib; result = {p.name: p.read_text() for p in pathlib.Path('/tmp').iterdir()}"
            found = await calls.run(listing)
            assert list(found) == ["pth-1"]
            assert "Permission denied" in found["pth-1"]
            assert await calls.run("import sys; result = sys.prefix") == "/opt/kodou/env"
    finally:
        await bubblewrap_backend.images.remove(image)


USES = {
    "another interpreter": r"""
import subprocess, sys
result = subprocess.check_output([sys.executable, '-c', 'print(1)']) == b'1\n'
""",
    "a shell and pipes": """
import os
result = os.popen('ls / | sort | wc -l').read().strip().isdigit()
""",
    "a terminal": r"""
import os, pty
a, b = pty.openpty()
os.write(a, b'x\n')
result = os.read(b, 2) == b'x\n' and os.isatty(b)
""",
    "moves between directories": """
import os
os.makedirs('/tmp/a/b')
open('/tmp/a/x', 'w').close()
os.rename('/tmp/a/x', '/tmp/a/b/x')
os.link('/tmp/a/b/x', '/tmp/y')
os.truncate('/tmp/y', 0)
result = True
""",
    "sockets in /tmp": """
import socket
s = socket.socket(socket.AF_UNIX)
s.bind('/tmp/s')
s.listen()
c = socket.socket(socket.AF_UNIX)
c.connect('/tmp/s')
result = True
""",
    "its loopback": """
import socket
s = socket.create_server(('127.0.0.1', 0))
c = socket.create_connection(s.getsockname())
result = True
""",
    "files in memory": """
import os, subprocess
f = os.memfd_create('x', 0)
os.write(f, open('/bin/true', 'rb').read())
result = subprocess.call([f'/proc/self/fd/{f}'], pass_fds=[f]) == 0
""",
    "programs of its own": """
import os, shutil, subprocess
shutil.copy('/bin/true', '/tmp/t')
result = subprocess.call(['/tmp/t']) == 0
""",
    "file locks": """
import fcntl
f = open('/tmp/l', 'w')
fcntl.flock(f, fcntl.LOCK_EX)
fcntl.lockf(f, fcntl.LOCK_EX)
result = True
""",
    "shared memory": """
from multiprocessing.shared_memory import SharedMemory
m = SharedMemory(create=True, size=4096)
m.buf[0] = 1
m.close()
m.unlink()
result = True
""",
    "message queues": """
import ctypes, os
librt = ctypes.CDLL('librt.so.1')
result = librt.mq_open(b'/q', os.O_CREAT | os.O_RDWR, 0o600, None) >= 0
""",
    "signals and children": """
import os, signal
pid = os.fork()
if not pid: signal.pause()
os.kill(pid, 9)
result = os.WTERMSIG(os.waitpid(pid, 0)[1]) == 9
""",
    "devices": """
import os
open('/dev/null', 'w').write('x')
result = len(open('/dev/urandom', 'rb').read(4)) == 4 and not open('/dev/null').isatty()
""",
    "what is known of itself": """
result = 'VmRSS' in open('/proc/self/status').read() and len(open('/proc/meminfo').read()) > 100
""",
    "mapped files": """
import mmap
f = open('/tmp/m', 'wb+')
f.truncate(4096)
m = mmap.mmap(f.fileno(), 4096)
m[0] = 1
result = True
""",
    "pools of processes": """
import sys, textwrap, subprocess
program = '''
import multiprocessing, os
def work(n): return n * n
if __name__ == "__main__":
    for way in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(way).Pool(2) as pool:
            assert pool.map(work, [1, 2, 3]) == [1, 4, 9], way
'''
open('/tmp/pools.py', 'w').write(program)
result = subprocess.call([sys.executable, '-I', '/tmp/pools.py']) == 0
""",
}


async def test_what_programs_do_still_works(bubblewrap_data: BubblewrapData) -> None:
    async with started(bubblewrap_data) as calls:
        assert {name: await calls.run(code) for name, code in USES.items()} == dict.fromkeys(USES, True)


async def test_where_it_is_required_and_missing_nothing_starts(
    bubblewrap_data: BubblewrapData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 1)
    required = bubblewrap_data.settings.model_copy(update={"landlock": "required"})
    assert "KODOU_LANDLOCK is `required`" in (await check(required) or "")
    with pytest.raises(EngineUnavailable, match="KODOU_LANDLOCK"):
        await BubblewrapBackend(required).start(bubblewrap_data.image, None, labels={})  # type: ignore[arg-type]
    assert not {each.name: each.held for each in await promises(bubblewrap_data.settings)}["second wall"]
    async with started(bubblewrap_data) as calls:  # `auto` goes on without
        assert await calls.run("result = 1") == 1


@needed
async def test_rules_that_cannot_be_made_start_nothing(
    bubblewrap_data: BubblewrapData, monkeypatch: pytest.MonkeyPatch
) -> None:
    reworked(monkeypatch, lambda argv: [*argv, "read=/nowhere"])
    with pytest.raises(Exception, match="ended before its runner connected"):
        async with started(bubblewrap_data):
            pass
