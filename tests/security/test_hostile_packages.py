"""Packages that attack whoever builds or installs them, on each backend: a clear failure or no harm, nothing left, and the
next build is as if nothing had been. (What a build may write and take: `tests/integration`.)"""

import asyncio
import io
import os
import secrets
import stat
import tarfile
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.errors import BuildFailed
from orchestrator.sandboxes.backend import BuildEvent, BuildOrder, Image, Interpreter, SandboxBackend
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend
from orchestrator.sandboxes.docker.backend import DockerBackend
from orchestrator.settings import Settings
from tests.bubblewrap_fixtures import BubblewrapData
from tests.docker_fixtures import DockerBase, docker_settings
from tests.made_packages import Member, sdist, wheel, wheel_of
from tests.sandbox_calls import running

pytestmark = pytest.mark.anyio

MB = 1024 * 1024
LIMITS = {"build_disk_mb": 48, "build_files": 4000, "build_memory_mb": 256}
BUILD_S = 120.0


@dataclass
class Yard:
    """A backend to build on, and what it must still be like afterwards."""

    backend: SandboxBackend
    settings: Settings
    interpreter: Interpreter

    async def build(
        self, *files: Path, from_source: bool = False, timeout_s: float = BUILD_S
    ) -> tuple[Image, list[BuildEvent]]:
        order = BuildOrder(
            f"test-{secrets.token_hex(6)}", self.interpreter, files, from_source, {}, timeout_s, log_tail_bytes=16_384
        )
        events = [event async for event in self.backend.images.build(order)]
        image = await self.backend.images.find(order.environment_id)
        assert image is not None
        return image, events

    async def fails(self, *files: Path, from_source: bool = False, timeout_s: float = BUILD_S) -> BuildFailed:
        """How it fails; nothing of it is left."""
        with pytest.raises(BuildFailed) as caught:
            await self.build(*files, from_source=from_source, timeout_s=timeout_s)
        self.assert_clean()
        assert len(caught.value.log_tail.encode()) <= 16_384
        assert str(self.settings.data_dir) not in f"{caught.value.detail}{caught.value.log_tail}"
        return caught.value

    def assert_clean(self) -> None:
        assert list(self.settings.builds_dir.iterdir()) == []

    @asynccontextmanager
    async def used(
        self, *files: Path, from_source: bool = False
    ) -> AsyncIterator[tuple[Image, Callable[[str], object]]]:
        """An image of the files, and a session on it, both gone afterwards."""
        image, _ = await self.build(*files, from_source=from_source)
        try:
            async with running(self.backend, image) as calls:
                yield image, calls.run
                await calls.channel.aclose()
        finally:
            await self.backend.images.remove(image)
        self.assert_clean()

    async def assert_next_is_fine(self, directory: Path) -> None:
        async with self.used(wheel(directory)) as (_, run):
            assert await run("import tiny; result = tiny.main()") == 5


@asynccontextmanager
async def on_bubblewrap(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[Yard]:
    data: BubblewrapData = request.getfixturevalue("bubblewrap_data")
    settings = data.settings.model_copy(update={**LIMITS, "data_dir": data_dir})
    backend = BubblewrapBackend(settings)
    await backend.images.prepare()
    yield Yard(backend, settings, (await backend.images.interpreters())[0])
    await backend.aclose()


@asynccontextmanager
async def on_docker(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[Yard]:
    base: DockerBase = request.getfixturevalue("docker_base")
    settings = docker_settings(data_dir, base.name, **LIMITS)
    backend = DockerBackend(settings)
    yield Yard(backend, settings, base.interpreter)
    await backend.aclose()


@pytest.fixture(
    params=[
        pytest.param(on_bubblewrap, id="bubblewrap", marks=pytest.mark.bubblewrap),
        pytest.param(on_docker, id="docker", marks=pytest.mark.docker),
    ]
)
async def yard(request: pytest.FixtureRequest, open_tmp_path: Path) -> AsyncIterator[Yard]:
    async with request.param(request, open_tmp_path / "data") as found:
        yield found


# --- wheels ---


def lying(directory: Path) -> Path:
    """A RECORD that names files of others, and is wrong about its own."""
    record = "liar.py,sha256=AAAA,1\n../../../../../../etc/passwd,,\n/usr/bin/python3,,\nmissing.py,sha256=BBBB,9\n"
    members = {"liar.py": Member("value = 1\n"), "liar-1.0.dist-info/RECORD": Member(record)}
    path = directory / "liar-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, about in members.items():
            archive.writestr(name, about.content)
        archive.writestr("liar-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: liar\nVersion: 1.0\n")
        archive.writestr(
            "liar-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    return path


HOSTILE_WHEELS: dict[str, tuple[dict[str, Member], str]] = {
    # name: members, and what is said of it ("" where it may do no harm instead)
    "climbs out by its names": ({"../../../../../../tmp/climbed.py": Member("x")}, ""),
    "climbs out by its data": ({"bad-1.0.data/data/../../../../../../etc/climbed": Member("x")}, ""),
    "has absolute names": ({"/etc/climbed": Member("x")}, ""),
    "brings an interpreter": ({"bad-1.0.data/scripts/python": Member("#!/bin/sh\n", mode=0o755)}, "ended with code"),
    "leads out by a link": ({"out": Member("/etc", mode=stat.S_IFLNK | 0o777), "out/climbed": Member("x")}, ""),
    "is a bomb": ({"bomb.bin": Member(b"\0" * (96 * MB))}, "larger than 48 MB|ended with code"),
    "holds more files than it may": ({f"many/f{n}.txt": Member("") for n in range(6000)}, "more than 4000 files"),
    "has huge metadata": (
        {"bad-1.0.dist-info/entry_points.txt": Member("[console_scripts]\n" + "a = b:c\n" * 500_000)},
        "",
    ),
    "nests deep": ({"/".join(["d"] * 100) + "/f.py": Member("x")}, "nest too deep"),
    "has bits that give rights": ({"suid": Member("#!/bin/sh\n", mode=stat.S_IFREG | 0o6777)}, ""),
}


@pytest.mark.parametrize("which", HOSTILE_WHEELS)
async def test_a_wheel_does_no_harm_that(yard: Yard, tmp_path: Path, which: str) -> None:
    members, said = HOSTILE_WHEELS[which]
    package = wheel_of(tmp_path, members, name="bad")
    image, failed = None, None
    try:
        image, _ = await yard.build(package)
    except BuildFailed as exc:
        failed = exc
    if failed is not None:
        assert len(failed.log_tail.encode()) <= 16_384
        assert not said or any(each in failed.detail for each in said.split("|")), failed.detail
    assert failed is not None or not said
    if image is not None:
        async with running(yard.backend, image) as calls:
            climbed = "[p for p in ('/etc/climbed', '/tmp/climbed.py', '/climbed.py') if os.path.exists(p)]"
            rights = "subprocess.run(['find', '/opt/kodou/env', '-perm', '/6000'], capture_output=True).stdout.decode()"
            seen = await calls.run(f"import os, subprocess; result = [{climbed}, {rights}]")
            assert seen[0] == []
            if yard.backend.name == "bubblewrap":  # docker keeps the bits, which mean nothing with no-new-privileges
                assert seen[1] == ""
            await calls.channel.aclose()
        await yard.backend.images.remove(image)
    yard.assert_clean()
    assert not os.path.exists("/etc/climbed")  # noqa: PTH110, ASYNC240
    assert not os.path.exists("/tmp/climbed.py")  # noqa: PTH110, ASYNC240


async def test_a_record_that_lies_gives_nothing_away(yard: Yard, tmp_path: Path) -> None:
    with suppress(BuildFailed):  # it may be refused, too
        async with yard.used(lying(tmp_path)) as (_, run):
            assert await run("import liar; result = liar.value") == 1
    yard.assert_clean()
    assert os.path.exists("/etc/passwd")  # noqa: PTH110, ASYNC240


@pytest.mark.parametrize(
    "content", [b"", b"PK\x05\x06" + bytes(18), b"not an archive" * 100], ids=["empty", "void", "text"]
)
async def test_what_is_no_wheel_is_a_failed_build(yard: Yard, tmp_path: Path, content: bytes) -> None:
    package = tmp_path / "bad-1.0-py3-none-any.whl"
    package.write_bytes(content)
    assert "ended with code" in (await yard.fails(package)).detail


# --- sources ---


def linked(directory: Path) -> Path:
    """An archive of a source whose members lead out of it."""
    path = directory / "linked-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, target in (
            ("linked-1.0/out", tarfile.SYMTYPE, "../../../../../../tmp"),
            ("linked-1.0/absolute", tarfile.SYMTYPE, "/etc"),
            ("linked-1.0/hard", tarfile.LNKTYPE, "/etc/shadow"),
            ("linked-1.0/device", tarfile.CHRTYPE, ""),
            ("linked-1.0/pipe", tarfile.FIFOTYPE, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
        for name in ("linked-1.0/out/climbed.py", "../../climbed.py", "/etc/climbed"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"x"))
    return path


async def test_an_archive_that_leads_out_writes_nothing_there(yard: Yard, tmp_path: Path) -> None:
    assert "ended with code" in (await yard.fails(linked(tmp_path), from_source=True)).detail
    for path in ("/tmp/climbed.py", "/etc/climbed"):
        assert not os.path.exists(path)  # noqa: PTH110, ASYNC240


ATTACKS = """
import os, socket, subprocess
seen = {}
def attempt(name, work):
    try:
        work()
        seen[name] = "done"
    except Exception as exc:
        seen[name] = "refused"
def write(path):
    with open(path, "a") as file: file.write("x")
def connect(address):
    socket.create_connection(address, 2).close()
attempt("another's files", lambda: os.listdir(DATA + "/wheels"))
attempt("another's builds", lambda: os.listdir(DATA + "/builds"))
attempt("the server's keys", lambda: os.listdir(DATA + "/keys"))
attempt("its own package", lambda: [write("/build/files/" + name) for name in os.listdir("/build/files")])
attempt("the installer", lambda: [write("/build/" + name) for name in os.listdir("/build") if name.startswith("uv")])
attempt("a package more", lambda: write("/build/files/more.whl"))
attempt("the builder", lambda: write("/opt/kodou/lib/builder/boot.py"))
attempt("the runner", lambda: write("/opt/kodou/lib/runner/boot.py"))
attempt("the interpreter", lambda: write(os.path.realpath("/opt/kodou/env/bin/python")))
attempt("the system", lambda: write("/usr/lib/planted"))
attempt("the host's passwords", lambda: open("/etc/shadow").read())
attempt("the network", lambda: connect(("1.1.1.1", 443)))
attempt("the host", lambda: connect(("172.17.0.1", 80)))
attempt("cloud metadata", lambda: connect(("169.254.169.254", 80)))
attempt("the engine", lambda: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock"))
attempt("a device", lambda: os.mknod("/opt/kodou/env/device", 0o020666, os.makedev(1, 3)))
attempt("a file of its installer", lambda: os.link("/build/files", "/opt/kodou/env/files"))
attempt("more rights", lambda: os.setuid(0))
os.mkfifo("/opt/kodou/env/fifo")
os.symlink("/etc/shadow", "/opt/kodou/env/absolute")
os.symlink("../../../../../../../etc/shadow", "/opt/kodou/env/relative")
sock = socket.socket(socket.AF_UNIX); sock.bind("/opt/kodou/env/sock")
with open("/opt/kodou/env/sparse", "wb") as file: file.truncate(40 * 1024 * 1024)
with open("/opt/kodou/env/suid", "w") as file: file.write("#!/bin/sh\\n")
os.chmod("/opt/kodou/env/suid", 0o6777)
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        for each in range(3, 100):
            try: os.close(each)
            except OSError: pass
        null = os.open(os.devnull, os.O_RDWR)
        for each in range(3): os.dup2(null, each)
        os.execvp("sleep", ["sleep", "600"])
module = "seen = " + repr(seen)
"""


async def test_a_source_gets_at_nothing_as_it_is_built(yard: Yard, tmp_path: Path) -> None:
    yard.settings.data_dir.mkdir(parents=True, exist_ok=True)
    attack = ATTACKS.replace("DATA", repr(str(yard.settings.data_dir)))
    async with yard.used(sdist(tmp_path, at_build=attack), from_source=True) as (image, run):
        seen = await run("import fromsource; result = fromsource.seen")
        assert isinstance(seen, dict)
        assert len(seen) == 18
        assert {name for name, how in seen.items() if how != "refused"} == set()
        # What it left in its own environment leads nowhere and gives nobody rights.
        look = """
import os, stat, subprocess
result = {"uid": subprocess.run(["/opt/kodou/env/suid"]).returncode, "own": os.getuid() != 0}
for name in ("absolute", "relative"):
    try:
        result[name] = len(open("/opt/kodou/env/" + name).read())
    except OSError:
        result[name] = "refused"
"""
        assert await run(look) == {"uid": 0, "own": True, "absolute": "refused", "relative": "refused"}
        if yard.backend.name == "bubblewrap":
            env = yard.settings.environments_dir / image.ref / "env"
            names = {path.name for path in env.iterdir()}
            assert names.isdisjoint({"fifo", "sock", "device"})
    await yard.assert_next_is_fine(tmp_path)


HOSTILE_BUILDS = {
    "a file with holes, larger than may be": (
        "open('/opt/kodou/env/sparse', 'wb').truncate(1 << 40)",
        "ended with code",
    ),
    "a log with no end": (
        "import os, time\nend = time.monotonic() + 60\n"
        "while time.monotonic() < end: os.write(2, b'\\x1b[31m\\xff\\xfe\\x00' * 1000 + b'\\n')",
        "longer than 6 s|out of memory",  # the installer holds what a build prints
    ),
    "a line with no end": (
        "import os, time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: os.write(2, b'x' * 65536)",
        "longer than 6 s|ended with code|out of memory",
    ),
    "forks without end": (
        "import os, time\nend = time.monotonic() + 60\nwhile time.monotonic() < end:\n"
        "    try:\n        os.fork()\n    except OSError:\n        pass",
        "longer than 6 s|ended with code|out of memory",
    ),
    "kills everybody": ("import os, time\nos.kill(-1, 9)\ntime.sleep(60)", "ended with code"),
    "stops everybody": ("import os, time\nos.kill(-1, 19)\ntime.sleep(60)", "longer than 6 s"),
    "lies about what it made": (
        "return 'nothing-1.0-py3-none-any.whl'",
        "ended with code",
    ),
    "names its wheel out of its place": (
        "open('/opt/kodou/env/planted.whl', 'w').close()\nreturn '../../../../../../opt/kodou/env/planted.whl'",
        "ended with code",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("which", HOSTILE_BUILDS)
async def test_a_build_fails_clearly_that(yard: Yard, tmp_path: Path, which: str) -> None:
    code, said = HOSTILE_BUILDS[which]
    timeout_s = 6.0 if "longer than 6 s" in said else BUILD_S
    async with asyncio.timeout(2 * BUILD_S):
        failed = await yard.fails(sdist(tmp_path, at_build=code), from_source=True, timeout_s=timeout_s)
    assert any(each in failed.detail for each in said.split("|")), failed.detail
    assert "\x1b" not in failed.log_tail
    assert "\x00" not in failed.log_tail


async def test_after_hostile_builds_the_next_is_fine(yard: Yard, tmp_path: Path) -> None:
    await yard.fails(sdist(tmp_path, at_build="import os; os.kill(-1, 9)"), from_source=True)
    await yard.assert_next_is_fine(tmp_path)


def test_the_kinds_of_packages_are_what_they_say(tmp_path: Path) -> None:
    """So that no attack is one in name only: the bomb is small and becomes large."""
    bomb = wheel_of(tmp_path, HOSTILE_WHEELS["is a bomb"][0], name="bad")
    assert bomb.stat().st_size < MB
    with zipfile.ZipFile(bomb) as archive:
        assert sum(each.file_size for each in archive.infolist()) > 90 * MB
