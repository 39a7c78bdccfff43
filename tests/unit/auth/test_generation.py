import os
from pathlib import Path

import pytest

from orchestrator.auth.generation import LOOK_S, Generation


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_every_bump_is_seen_by_every_process(tmp_path: Path) -> None:
    ours, theirs = Generation(tmp_path), Generation(tmp_path)
    seen = {ours.current()}
    for _ in range(100):  # more than the kernel's clock can tell apart
        theirs.bump()
        assert ours.current() not in seen
        seen.add(ours.current())


def test_it_stands_still_without_a_bump(tmp_path: Path) -> None:
    generation = Generation(tmp_path)
    generation.bump()
    assert generation.current() == Generation(tmp_path).current()


def test_a_bump_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="generation"):
        Generation(tmp_path / "absent").bump()


def test_the_file_is_the_server_s_own(tmp_path: Path) -> None:
    Generation(tmp_path).bump()
    assert (tmp_path / "generation").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("size", [0, 1, 2, 3, 9])
def test_a_bump_of_the_file_that_took_its_place_is_seen(tmp_path: Path, size: int) -> None:
    clock = Clock()
    ours = Generation(tmp_path, clock)
    for _ in range(3):
        ours.bump()
    seen = {ours.current()}
    (tmp_path / "restored").write_bytes(b"." * size)
    (tmp_path / "restored").replace(tmp_path / "generation")
    for _ in range(3):
        Generation(tmp_path).bump()
        clock.now += LOOK_S
        assert ours.current() not in seen
        seen.add(ours.current())
    clock.now += LOOK_S
    assert ours.current() in seen
    Generation(tmp_path).bump()
    assert ours.current() not in seen  # at once, as before


def test_a_file_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    clock = Clock()
    ours = Generation(tmp_path, clock)
    ours.bump()
    (tmp_path / "generation").unlink()
    clock.now += LOOK_S
    seen = ours.current()
    assert (tmp_path / "generation").stat().st_mode & 0o777 == 0o600
    clock.now += LOOK_S
    assert ours.current() == seen
    Generation(tmp_path).bump()
    assert ours.current() != seen


def test_without_a_file_that_can_be_read_nothing_stays_cached(tmp_path: Path) -> None:
    clock = Clock()
    ours = Generation(tmp_path, clock)
    seen = {ours.current()}
    (tmp_path / "generation").unlink()
    (tmp_path / "generation").mkdir()
    for _ in range(3):
        clock.now += LOOK_S
        assert ours.current() not in seen
        seen.add(ours.current())


def test_the_path_is_looked_up_now_and_then_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stat = Clock(), Path.stat
    looks: list[Path] = []

    def counted(path: Path) -> os.stat_result:
        looks.append(path)
        return stat(path)

    ours = Generation(tmp_path, clock)
    monkeypatch.setattr(Path, "stat", counted)
    for _ in range(100):
        ours.current()
    assert looks == []
    clock.now += LOOK_S
    for _ in range(100):
        ours.current()
    assert len(looks) == 1
