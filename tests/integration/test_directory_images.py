"""Environments become directories of this host, built in bubblewrap; nothing that failed or lied leaves a trace."""

import asyncio
import contextlib
import os
import secrets
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from orchestrator.errors import BuildFailed, DependencyUnresolvable, NotFound
from orchestrator.sandboxes.backend import BuildEvent, BuildOrder, Image, Interpreter
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend
from orchestrator.sandboxes.bubblewrap.cgroups import Cgroup, CgroupSupport, GroupLimits
from orchestrator.sandboxes.directories.trees import MAX_DEPTH, delete
from orchestrator.sandboxes.process import ProcessBackend
from orchestrator.settings import Settings
from tests.bubblewrap_fixtures import BubblewrapData
from tests.made_packages import sdist, wheel
from tests.sandbox_calls import SPEC, running

pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]

BUILDING_SERVER = """
import asyncio, sys
from pathlib import Path
from orchestrator.sandboxes.backend import BuildOrder
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend
from orchestrator.settings import Settings

async def main():
    backend = BubblewrapBackend(Settings(data_dir=Path(sys.argv[1]), backend="bubblewrap"))
    await backend.images.prepare()
    interpreter = (await backend.images.interpreters())[0]
    async for _ in backend.images.build(BuildOrder("py-never", interpreter, [Path(sys.argv[2])], True, {}, 120, 4096)):
        print("building", flush=True)

asyncio.run(main())
"""


MADE: list[Cgroup] = []  # the control groups of the test under way


@pytest.fixture(autouse=True)
def made_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember which there were: other servers of this machine have some, too."""
    create = CgroupSupport.create

    def remembered(support: CgroupSupport, name: str, limits: GroupLimits) -> Cgroup:
        MADE.append(create(support, name, limits))
        return MADE[-1]

    MADE.clear()
    monkeypatch.setattr(CgroupSupport, "create", remembered)


@pytest.fixture
async def backend(bubblewrap_data: BubblewrapData, bubblewrap_backend: BubblewrapBackend) -> BubblewrapBackend:
    return bubblewrap_backend


@pytest.fixture
async def interpreter(backend: BubblewrapBackend) -> Interpreter:
    return (await backend.images.interpreters())[0]


@pytest.fixture
async def environment_id(backend: BubblewrapBackend) -> AsyncIterator[str]:
    """The id of an environment whose image goes away with the test."""
    chosen = f"test-{secrets.token_hex(6)}"
    yield chosen
    image = await backend.images.find(chosen)
    if image is not None:
        await backend.images.remove(image)


@pytest.fixture
async def small(bubblewrap_data: BubblewrapData, open_tmp_path: Path) -> AsyncIterator[BubblewrapBackend]:
    """A backend whose builds may take little."""
    limits = {"build_disk_mb": 16, "build_files": 500, "build_memory_mb": 256}
    backend = BubblewrapBackend(bubblewrap_data.settings.model_copy(update={**limits, "data_dir": open_tmp_path / "d"}))
    await backend.images.prepare()
    yield backend
    await backend.aclose()


def build_order(
    environment_id: str, interpreter: Interpreter, *files: Path, from_source: bool = False, timeout_s: float = 120
) -> BuildOrder:
    return BuildOrder(environment_id, interpreter, files, from_source, {"io.kodou.test": "1"}, timeout_s, 16_384)


async def built(backend: BubblewrapBackend, order: BuildOrder) -> tuple[Image, list[BuildEvent]]:
    events = [event async for event in backend.images.build(order)]
    image = await backend.images.find(order.environment_id)
    assert image is not None
    return image, events


async def failure(backend: BubblewrapBackend, source: Path, *, timeout_s: float = 120) -> BuildFailed:
    """How the build of a source fails; nothing of it may be left."""
    order = build_order(
        "test-failing", (await backend.images.interpreters())[0], source, from_source=True, timeout_s=timeout_s
    )
    with pytest.raises(BuildFailed) as caught:
        await built(backend, order)
    await assert_nothing_is_left(backend, "test-failing")
    return caught.value


async def assert_nothing_is_left(backend: BubblewrapBackend, environment_id: str) -> None:
    settings = backend._settings
    assert await backend.images.find(environment_id) is None
    assert list(settings.builds_dir.iterdir()) == []
    assert builders(settings) == []
    assert [path for group in MADE for path in group.directories if path.exists()] == []


def builders(settings: Settings) -> list[str]:
    """Processes that run for the data directory's builds."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(settings.builds_dir) in command:
            found.append(command)
    return found


def groups_of_builders(settings: Settings) -> list[Path]:
    """Control groups of processes whose parent runs for the data directory's builds."""
    found = []
    for path in Path("/sys/fs/cgroup").glob("**/kodou/*/cgroup.procs"):
        for pid in path.read_text().split():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                if str(settings.builds_dir) in Path(f"/proc/{parent}/cmdline").read_text():
                    found.append(path.parent)
    return found


# --- interpreters ---


async def test_interpreters_of_the_host_are_offered_newest_first(backend: BubblewrapBackend) -> None:
    offered = await backend.images.interpreters()
    assert offered
    versions = [tuple(map(int, each.version.split("."))) for each in offered]
    assert versions == sorted(versions, reverse=True)
    for each in offered:
        assert Path(each.base).is_absolute()
        assert each.version == each.markers["python_full_version"]
        assert each.platform.startswith(f"{each.markers['platform_machine']}-manylinux_2_")


async def test_the_digest_follows_the_interpreter_and_stays_the_same(
    backend: BubblewrapBackend, bubblewrap_data: BubblewrapData
) -> None:
    again = BubblewrapBackend(bubblewrap_data.settings)
    await again.images.prepare()
    assert await again.images.interpreters() == await backend.images.interpreters()
    await again.aclose()


async def test_an_interpreter_that_cannot_be_used_hinders_no_other(
    bubblewrap_data: BubblewrapData, interpreter: Interpreter
) -> None:
    named = (Path("/nowhere/python3"), Path("/bin/true"), Path(interpreter.base))
    backend = BubblewrapBackend(bubblewrap_data.settings.model_copy(update={"interpreters": named}))
    await backend.images.prepare()
    assert await backend.images.interpreters() == [interpreter]
    await backend.aclose()


async def test_before_preparing_nothing_is_offered(bubblewrap_data: BubblewrapData) -> None:
    backend = BubblewrapBackend(bubblewrap_data.settings)
    assert await backend.images.interpreters() == []
    await backend.aclose()


# --- builds ---


async def test_an_environment_is_built_found_listed_used_and_removed(
    backend: BubblewrapBackend, interpreter: Interpreter, tmp_path: Path, environment_id: str
) -> None:
    image, events = await built(backend, build_order(environment_id, interpreter, wheel(tmp_path)))
    assert [event.package for event in events if event.package] == ["tiny"]
    assert [event.phase for event in events][-1] == "commit"
    assert image.labels == {"io.kodou.test": "1"}
    assert 10_000 < image.size_bytes < 5_000_000
    assert image in await backend.images.list()
    async with running(backend, image) as calls:
        assert await calls.run("import tiny; result = tiny.main()") == 5
        assert await calls.run("import os, tiny; result = os.path.exists(tiny.__cached__)")
        assert await calls.run("import subprocess; result = subprocess.run(['tiny']).returncode") == 5
    assert await backend.images.remove(image) is True
    assert await backend.images.remove(image) is True  # already gone
    assert await backend.images.find(environment_id) is None
    with pytest.raises(NotFound):
        await backend.start(image, SPEC, labels={})


async def test_an_image_that_a_sandbox_uses_is_kept(
    backend: BubblewrapBackend, interpreter: Interpreter, environment_id: str
) -> None:
    image, _ = await built(backend, build_order(environment_id, interpreter))
    async with running(backend, image) as calls:
        assert await backend.images.remove(image) is False
        assert await calls.run("import json.tool; result = 1") == 1
    assert await backend.images.remove(image) is True


async def test_a_source_is_built_without_network_rights_or_a_way_to_other_files(
    backend: BubblewrapBackend, interpreter: Interpreter, tmp_path: Path, environment_id: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = sdist(
            tmp_path,
            at_build=f"""
            import os, socket
            seen = {{"uid": os.getuid(), "links": [name for _, name in socket.if_nameindex()], "root": sorted(os.listdir("/"))}}
            for name, attempt in {{
                "network": lambda: socket.create_connection({server.getsockname()!r}, 2),
                "files": lambda: open("/build/files/planted", "w"),
                "library": lambda: open("/opt/kodou/lib/builder/boot.py", "a"),
                "usr": lambda: open("/usr/planted", "w"),
                "sysctl": lambda: open("/proc/sys/kernel/core_pattern", "w"),
                "shadow": lambda: open("/etc/shadow"),
                "data": lambda: os.listdir({str(backend._settings.data_dir)!r}),
            }}.items():
                try:
                    attempt()
                    seen[name] = "done"
                except OSError:
                    seen[name] = "refused"
            module = f"seen = {{seen!r}}"
            """,
        )
        image, _ = await built(backend, build_order(environment_id, interpreter, source, from_source=True))
    async with running(backend, image) as calls:
        seen = await calls.run("import fromsource; result = fromsource.seen")
    assert seen.pop("uid") == 1000
    assert seen.pop("links") == ["lo"]
    assert {"root", "home", "var", "data", "work"}.isdisjoint(seen.pop("root"))
    assert set(seen.values()) == {"refused"}


async def test_nobody_but_the_server_can_write_what_was_built(
    backend: BubblewrapBackend, interpreter: Interpreter, tmp_path: Path, environment_id: str
) -> None:
    source = sdist(
        tmp_path,
        at_build="""
        import os
        os.mkdir("/opt/kodou/env/planted")
        os.chdir("/opt/kodou/env/planted")
        open("script", "w").close(); os.chmod("script", 0o6777)
        open("shut", "w").close(); os.chmod("shut", 0)
        os.mkfifo("pipe")
        os.symlink("/etc/passwd", "link")
        os.symlink("/", "root")
        os.mkdir("closed"); open("closed/file", "w").close(); os.chmod("closed", 0)
        os.chmod("/opt/kodou/env", 0o777)
        """,
    )
    before = os.stat("/etc/passwd")  # noqa: PTH116
    image, _ = await built(backend, build_order(environment_id, interpreter, source, from_source=True))
    env = backend._settings.environments_dir / image.ref / "env"
    for parent, directories, files in os.walk(env):
        for path in (Path(parent), *(Path(parent) / name for name in (*directories, *files))):
            status = path.lstat()
            assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
            if not stat.S_ISLNK(status.st_mode):
                assert stat.S_IMODE(status.st_mode) in {0o755, 0o644}
    assert sorted(path.name for path in (env / "planted").iterdir()) == ["closed", "link", "root", "script", "shut"]
    assert os.stat("/etc/passwd") == before  # noqa: PTH116 - the link was not followed


async def test_a_log_cannot_grow_without_end_nor_claim_what_is_not(
    backend: BubblewrapBackend, interpreter: Interpreter, tmp_path: Path
) -> None:
    source = sdist(
        tmp_path,
        at_build=r"""
        import os, sys
        line = '{"phase": "ready", "package": null, "line": "\\u001b[31mred"}'
        out = os.open("/proc/%d/fd/1" % 1, os.O_WRONLY)
        os.write(out, (line + "\n" + "x" * 100_000 + "\n").encode() + b"\xff\xfe\n")
        raise SystemExit("enough")
        """,
    )
    events = []

    async def build() -> None:
        async for event in backend.images.build(build_order("test-log", interpreter, source, from_source=True)):
            events.append(event)

    with pytest.raises(BuildFailed) as caught:
        await build()
    assert {event.phase for event in events} <= {"install", "compile"}
    assert max(len((event.line or "").encode()) for event in events) <= 3 * 2048
    assert not [event for event in events if "\x1b" in (event.line or "")]
    assert len(caught.value.log_tail.encode()) <= 16_384


async def test_a_build_that_fails_leaves_nothing_but_its_log(backend: BubblewrapBackend, tmp_path: Path) -> None:
    failed = await failure(backend, sdist(tmp_path, at_build="raise RuntimeError('no luck today')"))
    assert "no luck today" in failed.log_tail


async def test_a_build_that_takes_too_long_is_ended_with_all_it_started(
    backend: BubblewrapBackend, tmp_path: Path
) -> None:
    source = sdist(
        tmp_path,
        at_build="""
        import os, time
        if os.fork() == 0:
            os.setsid()
        time.sleep(600)
        """,
    )
    assert "took longer than 3 s" in (await failure(backend, source, timeout_s=3)).detail


@pytest.mark.parametrize(
    ("at_build", "said"),
    [
        (
            "for n in range(64): open(f'/opt/kodou/env/{n}', 'wb').write(bytes(1024 * 1024))\nimport time; time.sleep(600)",
            "larger than 16 MB",
        ),
        (
            "for n in range(5000): open(f'/opt/kodou/env/{n}', 'w').close()\nimport time; time.sleep(600)",
            "more than 500 files",
        ),
        (
            f"import os\nos.chdir('/opt/kodou/env')\nfor n in range({MAX_DEPTH * 40}): os.mkdir('d'); os.chdir('d')",
            "nest too deep",
        ),
    ],
)
async def test_what_a_build_writes_is_bounded(
    small: BubblewrapBackend, tmp_path: Path, at_build: str, said: str
) -> None:
    assert said in (await failure(small, sdist(tmp_path, at_build=at_build))).detail


async def test_a_builds_memory_is_bounded(small: BubblewrapBackend, tmp_path: Path) -> None:
    await failure(small, sdist(tmp_path, at_build="x = [b'x' * 1024 * 1024 for _ in range(4096)]"))


async def test_a_build_that_nobody_waits_for_any_more_leaves_nothing(
    backend: BubblewrapBackend, interpreter: Interpreter, tmp_path: Path
) -> None:
    source = sdist(tmp_path, at_build="import time; time.sleep(600)")
    order = build_order("test-left", interpreter, source, from_source=True)
    async with aclosing(backend.images.build(order)) as events:  # type: ignore[type-var]
        await anext(events)
    await assert_nothing_is_left(backend, "test-left")


async def test_a_build_that_is_cancelled_leaves_nothing(
    backend: BubblewrapBackend, interpreter: Interpreter, tmp_path: Path
) -> None:
    source = sdist(tmp_path, at_build="import time; time.sleep(600)")
    order = build_order("test-cancelled", interpreter, source, from_source=True)
    task = asyncio.create_task(built(backend, order))
    while not builders(backend._settings):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_nothing_is_left(backend, "test-cancelled")


async def test_a_build_ends_with_its_server_however_that_ends(
    backend: BubblewrapBackend, bubblewrap_data: BubblewrapData, tmp_path: Path
) -> None:
    source = sdist(tmp_path, at_build="import time; time.sleep(600)")
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BUILDING_SERVER, bubblewrap_data.settings.data_dir, source, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        await server.stdout.readuntil(b"building\n")
        assert builders(backend._settings)
        groups_left = await asyncio.to_thread(groups_of_builders, backend._settings)
    finally:
        server.kill()
        await server.wait()
    async with asyncio.timeout(120):
        while builders(backend._settings):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for path in groups_left:
        os.utime(path, (0, 0))  # as if that had been a while ago
    again = BubblewrapBackend(bubblewrap_data.settings)
    await again.images.prepare()
    await again.aclose()
    assert list(backend._settings.builds_dir.iterdir()) == []
    assert [path for path in groups_left if path.exists()] == []


async def test_what_a_crash_left_of_a_build_or_a_removal_goes_at_the_next_start(
    backend: BubblewrapBackend, bubblewrap_data: BubblewrapData
) -> None:
    builds = bubblewrap_data.settings.builds_dir
    for name in ("build-0123456789abcdef", "removed-0123456789abcdef"):
        (builds / name / "image" / "env").mkdir(parents=True)
    again = BubblewrapBackend(bubblewrap_data.settings)
    await again.images.prepare()
    assert list(builds.iterdir()) == []
    await again.aclose()


async def test_half_an_image_is_none_and_does_not_hinder_a_build(
    backend: BubblewrapBackend, interpreter: Interpreter, environment_id: str
) -> None:
    half = backend._settings.environments_dir / environment_id
    (half / "env").mkdir(parents=True)
    assert await backend.images.find(environment_id) is None
    image, _ = await built(backend, build_order(environment_id, interpreter))
    assert (half / "env" / "bin" / "python").exists()
    assert await backend.images.remove(image) is True


@pytest.mark.parametrize("environment_id", ["..", "../tools", ".", "", "a/b", "A", "-x"])
async def test_an_id_that_is_none_leads_nowhere(backend: BubblewrapBackend, environment_id: str) -> None:
    assert await backend.images.find(environment_id) is None


def test_a_tree_of_any_depth_can_be_deleted(open_tmp_path: Path) -> None:
    deep = open_tmp_path / "deep"
    deep.mkdir()
    subprocess.run(
        [sys.executable, "-c", "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"], cwd=deep, check=True
    )
    delete(deep)
    assert not deep.exists()


# --- the process backend, whose images are such directories too ---


async def test_the_process_backend_builds_and_runs_them(open_tmp_path: Path, tmp_path: Path) -> None:
    settings = Settings(data_dir=open_tmp_path / "data", backend="process", allow_process_backend=True)
    backend = ProcessBackend(settings)
    await backend.images.prepare()
    interpreter = (await backend.images.interpreters())[0]
    order = build_order("test-process", interpreter, wheel(tmp_path))
    async for _ in backend.images.build(order):
        pass
    image = await backend.images.find("test-process")
    assert image is not None
    async with running(backend, image) as calls:
        assert await calls.run("import tiny; result = tiny.main()") == 5
        assert await calls.run("import subprocess; result = subprocess.run(['tiny']).returncode") == 5
        assert await backend.images.remove(image) is False
    assert await backend.images.remove(image) is True
    await backend.aclose()


# --- resolving in a sandbox ---


@pytest.mark.index
async def test_a_set_of_sources_is_resolved_through_the_index_only(
    backend: BubblewrapBackend, interpreter: Interpreter
) -> None:
    lock = await backend.images.lock_in_sandbox(interpreter, ["docopt==0.6.2"], timeout_s=120)
    assert 'name = "docopt"' in lock


@pytest.mark.index
async def test_what_cannot_be_resolved_is_explained(backend: BubblewrapBackend, interpreter: Interpreter) -> None:
    with pytest.raises(DependencyUnresolvable, match="docopt"):
        await backend.images.lock_in_sandbox(interpreter, ["docopt>999"], timeout_s=120)
