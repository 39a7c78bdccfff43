"""Control groups of both versions, on made-up hierarchies; and on this machine's own where it lets us."""

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.sandboxes.bubblewrap import cgroups
from orchestrator.sandboxes.bubblewrap.cgroups import Cgroup, CgroupSupport, GroupLimits

LIMITS = GroupLimits(memory_mb=64, pids=10, cpus=0.5)
MEMORY = str(64 * 1024**2)


def set_own(monkeypatch: pytest.MonkeyPatch, groups: dict[str, str]) -> None:
    monkeypatch.setattr(cgroups, "_own_groups", lambda: groups)


@pytest.fixture
def version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for controller in cgroups.CONTROLLERS:
        (tmp_path / controller / "unit").mkdir(parents=True)
    set_own(monkeypatch, {"memory": "/unit", "pids": "/", "cpu": "/gone"})
    return tmp_path


def hierarchy(root: Path, *groups: str, enabled: str, processes: str = "1\n2\n") -> None:
    """A version 2 hierarchy: these groups, each with these controllers turned on for what is below."""
    (root / "cgroup.controllers").write_text(enabled)
    for group in ("", *groups):
        directory = root / group
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.subtree_control").write_text(enabled)
        (directory / "cgroup.procs").write_text(processes)


def test_version_1_makes_a_group_for_each_controller_below_its_own(version_1: Path) -> None:
    support = CgroupSupport.detect(version_1)
    assert support.version == 1
    group = support.create("s1", LIMITS)
    memory, pids, cpu = version_1 / "memory/unit/kodou/s1", version_1 / "pids/kodou/s1", version_1 / "cpu/kodou/s1"
    assert set(group.directories) == {memory, pids, cpu}
    assert (memory / "memory.limit_in_bytes").read_text() == MEMORY
    assert (memory / "memory.memsw.limit_in_bytes").read_text() == MEMORY
    assert (pids / "pids.max").read_text() == "10"
    assert (cpu / "cpu.cfs_period_us").read_text() == "100000"
    assert (cpu / "cpu.cfs_quota_us").read_text() == "50000"


def test_version_2_makes_one_group_with_all_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hierarchy(tmp_path, "unit", enabled="cpu memory pids")
    set_own(monkeypatch, {"": "/unit"})
    support = CgroupSupport.detect(tmp_path)
    assert (support.version, set(support.parents)) == (2, {"memory", "pids", "cpu"})
    (directory,) = support.create("s1", LIMITS).directories
    assert directory == tmp_path / "unit/kodou/s1"
    assert (directory / "memory.max").read_text() == MEMORY
    assert (directory / "memory.swap.max").read_text() == "0"
    assert (directory / "pids.max").read_text() == "10"
    assert (directory / "cpu.max").read_text() == "50000 100000"


def test_a_parent_that_goes_with_another_servers_last_sandbox_is_made_again(
    version_1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (version_1 / "memory/unit/kodou").mkdir()
    make = os.mkdir

    def meanwhile(path: Path, *options: int) -> None:
        try:
            make(path, *options)
        except FileExistsError:
            Path(path).rmdir()
            raise

    monkeypatch.setattr(os, "mkdir", meanwhile)
    group = CgroupSupport.detect(version_1).create("s1", LIMITS)
    assert all(directory.is_dir() for directory in group.directories)


def test_version_2_takes_the_nearest_group_that_has_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hierarchy(tmp_path, "slice", "slice/unit", enabled="")
    (tmp_path / "slice/cgroup.subtree_control").write_text("memory pids")
    (tmp_path / "slice/unit/cgroup.subtree_control").write_text("memory")
    set_own(monkeypatch, {"": "/slice/unit"})
    monkeypatch.setattr(Path, "write_text", _refuse_controllers(Path.write_text))
    assert CgroupSupport.detect(tmp_path).parents == dict.fromkeys(("memory", "pids"), tmp_path / "slice")


def test_version_2_moves_the_server_aside_only_if_it_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_own(monkeypatch, {"": "/unit"})
    hierarchy(tmp_path, "unit", enabled="")
    CgroupSupport.detect(tmp_path)
    assert not (tmp_path / "unit/kodou-server").exists()
    hierarchy(tmp_path, "unit", enabled="", processes=f"{os.getpid()}\n")
    CgroupSupport.detect(tmp_path)
    assert (tmp_path / "unit/kodou-server/cgroup.procs").read_text() == str(os.getpid())


def test_nothing_writable_is_told_and_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_own(monkeypatch, {})
    for support in (CgroupSupport.detect(tmp_path), CgroupSupport.detect(tmp_path / "none")):
        assert support.version is None
        assert support.detail
        assert not support.holds("memory")
        assert support.create("s1", LIMITS) == Cgroup(())


def test_the_least_share_of_a_processor_is_one_that_the_kernel_takes(version_1: Path) -> None:
    CgroupSupport.detect(version_1).create("s1", GroupLimits(64, 10, 0.0001))
    assert (version_1 / "cpu/kodou/s1/cpu.cfs_quota_us").read_text() == "1000"


@pytest.mark.parametrize(
    ("name", "text", "ended"),
    [
        ("memory.events", "low 0\noom 2\noom_kill 2\n", True),
        ("memory.events", "low 0\noom 2\noom_kill 0\n", False),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", True),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", False),
        ("pids.max", "10", False),
    ],
)
def test_running_out_of_memory_is_known(tmp_path: Path, name: str, text: str, ended: bool) -> None:
    (tmp_path / name).write_text(text)
    assert Cgroup((tmp_path,)).ran_out_of_memory() is ended


@pytest.mark.parametrize(
    ("switch", "told", "frozen", "thawed", "standing"),
    [
        ("cgroup.freeze", "cgroup.events", "1", "0", "populated 1\nfrozen 1\n"),
        ("freezer.state", "freezer.state", "FROZEN", "THAWED", "FROZEN\n"),
    ],
)
def test_both_versions_freeze(tmp_path: Path, switch: str, told: str, frozen: str, thawed: str, standing: str) -> None:
    memory, freezer = tmp_path / "memory", tmp_path / "freezer"
    for directory in (memory, freezer):
        directory.mkdir()
    (freezer / switch).write_text("")
    group = Cgroup((memory, freezer))
    assert group.freeze()
    assert (freezer / switch).read_text() == frozen
    (freezer / told).write_text(standing.replace("frozen 1", "frozen 0").replace("FROZEN", "FREEZING"))
    assert not group.frozen()
    (freezer / told).write_text(standing)
    assert group.frozen()
    group.thaw()
    assert (freezer / switch).read_text() == thawed


def test_without_a_freezer_nothing_freezes(tmp_path: Path) -> None:
    for group in (Cgroup(()), Cgroup((tmp_path,)), Cgroup((tmp_path / "gone",))):
        assert not group.freeze()
        assert not group.frozen()
        group.thaw()


def test_who_can_freeze_is_known(version_1: Path) -> None:
    assert not CgroupSupport.detect(version_1).freezes()
    (version_1 / "freezer").mkdir()
    support = CgroupSupport.detect(version_1)
    assert support.freezes()
    assert version_1 / "freezer/kodou/s1" in support.create("s1", LIMITS).directories


def test_a_real_group_holds_a_process_and_goes_away() -> None:
    support = CgroupSupport.detect()
    if not support.holds("pids"):
        pytest.skip(f"none can be made here: {support.detail}")
    name = f"test-{os.getpid()}"
    group = support.create(name, LIMITS)
    assert group == support.named(name)
    process = subprocess.Popen(["sleep", "60"])
    try:
        group.add(process.pid)
        pids = next(directory for directory in group.directories if directory.is_relative_to(support.parents["pids"]))
        assert (pids / "cgroup.procs").read_text().split() == [str(process.pid)]
    finally:
        process.kill()
        process.wait()
        group.remove()
    group.remove()  # already gone
    assert [directory for directory in group.directories if directory.exists()] == []


def _refuse_controllers(write):  # type: ignore[no-untyped-def]
    def write_text(path: Path, text: str, *arguments: object, **named: object) -> int:
        if text.startswith("+"):
            raise OSError(16, "busy")
        written: int = write(path, text, *arguments, **named)
        return written

    return write_text
