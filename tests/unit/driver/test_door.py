"""The driver's socket: whose it is, who is served, and what stands in its place."""

import os
import stat
from pathlib import Path

import pytest

from orchestrator.driver.door import claimed, opened
from orchestrator.errors import KodouError
from orchestrator.settings import Settings

SOMEONE_UID = 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


def test_the_socket_is_for_its_owner_and_group_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(tmp_path / "socket", Settings(data_dir=tmp_path)) as door:
            assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o660
            assert door.uids == {os.geteuid(), tmp_path.stat().st_uid}
    finally:
        os.umask(before)
    assert not (tmp_path / "socket").exists()


@as_root
def test_a_user_that_is_named_is_given_the_socket_and_served(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, driver_users=(str(SOMEONE_UID), "nobody"))
    with opened(tmp_path / "socket", settings) as door:
        assert (tmp_path / "socket").stat().st_uid == SOMEONE_UID
        assert {SOMEONE_UID, 65534, 0} == door.uids


def test_a_user_that_is_not_there_keeps_it_from_starting(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, driver_users=("no-such-user",))
    with pytest.raises(KodouError, match="no-such-user"), opened(tmp_path / "socket", settings):
        pass


def test_a_socket_that_a_crash_left_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with opened(tmp_path / "socket", settings), opened(tmp_path / "socket", settings):
        pass
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KodouError, match="something else"), opened(tmp_path / "file", settings):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_the_length_of_the_path_does_not_matter(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 40] * 5, "socket")
    with opened(deep, Settings(data_dir=tmp_path)):
        assert deep.is_socket()


def test_one_driver_runs_on_a_data_directory(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(KodouError, match="runs on this data directory already"), claimed(tmp_path):
        pass
    with claimed(tmp_path):
        pass
