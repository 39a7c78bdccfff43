"""A builder's workspace: readable inside whatever it was made from, gone with its build, told from a live one after a crash."""

from pathlib import Path

import pytest

from orchestrator.sandboxes.workspace import Workspace, is_held, left_behind

pytestmark = pytest.mark.anyio


def names(builds_dir: Path) -> list[str]:
    return [path.name for path in builds_dir.iterdir()]


async def test_it_goes_away_with_its_build(tmp_path: Path) -> None:
    async with Workspace.held(tmp_path) as workspace:
        assert names(tmp_path) == [f"build-{workspace.id}"]
    assert names(tmp_path) == []


async def test_files_in_it_can_be_read_by_the_build_user(tmp_path: Path) -> None:
    open_file, shut_file = tmp_path / "open.whl", tmp_path / "shut.whl"
    for file, mode in ((open_file, 0o644), (shut_file, 0o600)):
        file.write_bytes(b"wheel")
        file.chmod(mode)
    async with Workspace.held(tmp_path / "builds") as workspace:
        await workspace.add([open_file, shut_file], into=workspace.files)
        for file in workspace.files.iterdir():
            assert file.read_bytes() == b"wheel"
            assert file.stat().st_mode & 0o777 == 0o644
        assert workspace.files.stat().st_mode & 0o777 == 0o755
        assert (workspace.files / "open.whl").stat().st_ino == open_file.stat().st_ino  # nothing was copied


async def test_one_under_way_is_held_and_stays(tmp_path: Path) -> None:
    async with Workspace.held(tmp_path) as workspace:
        assert is_held(tmp_path, workspace.id)
        left_behind(tmp_path)
        assert workspace.build.is_dir()
    assert not is_held(tmp_path, workspace.id)


async def test_one_that_a_crash_left_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / "build-0123456789abcdef"
    (directory / "build").mkdir(parents=True)
    (tmp_path / "something-else").mkdir()
    assert not is_held(tmp_path, "0123456789abcdef")
    left_behind(tmp_path)
    assert names(tmp_path) == ["something-else"]


async def test_a_link_that_somebody_planted_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "builds").mkdir()
    (tmp_path / "builds" / "build-0123456789abcdef").symlink_to(victim)
    left_behind(tmp_path / "builds")
    assert victim.is_dir()
