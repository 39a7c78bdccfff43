"""A server has one id, for as long as its data directory lives."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from orchestrator.sandboxes.instance import instance_id


def test_it_is_made_once(tmp_path: Path) -> None:
    made = instance_id(tmp_path / "data")
    assert re.fullmatch(r"[0-9a-f]{16}", made)
    assert instance_id(tmp_path / "data") == made
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["instance"]


def test_two_that_start_at_once_agree(tmp_path: Path) -> None:
    together = Barrier(8)

    def start(_: int) -> str:
        together.wait()
        return instance_id(tmp_path)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(start, range(8)))) == 1


def test_one_that_is_damaged_is_not_made_anew_as_its_sandboxes_would_be_lost(tmp_path: Path) -> None:
    (tmp_path / "instance").write_text("\n")
    with pytest.raises(ValueError, match="16 hex digits"):
        instance_id(tmp_path)
