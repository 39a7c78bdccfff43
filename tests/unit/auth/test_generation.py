from pathlib import Path

import pytest

from orchestrator.auth.generation import Generation


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
