"""The link: modes and owners, any length of path, what a crash leaves behind, and who may connect."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from orchestrator.sandboxes.link import SOCKET_NAME, Link

ID = "a" * 32
SOMEONE_UID = 54321

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def connect(directory: Path) -> socket.socket:
    """Connect whatever the length of the path is."""
    directory_fd = os.open(directory, os.O_PATH)
    try:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(f"/proc/self/fd/{directory_fd}/{SOCKET_NAME}")
    finally:
        os.close(directory_fd)
    return client


def test_without_an_owner_all_may_connect_who_know_the_name(open_tmp_path: Path) -> None:
    run_dir = open_tmp_path / "data" / "run"
    link = Link.create(run_dir, ID)
    assert link.directory == run_dir / ID
    assert mode(run_dir) == mode(link.directory) == 0o711
    assert mode(link.directory / SOCKET_NAME) == 0o666
    link.close()


@as_root
def test_with_an_owner_nobody_else_may_connect(open_tmp_path: Path) -> None:
    link = Link.create(open_tmp_path / "run", ID, owner=SOMEONE_UID)
    for path, expected in ((link.directory, 0o700), (link.directory / SOCKET_NAME, 0o600)):
        assert mode(path) == expected
        assert (path.stat().st_uid, path.stat().st_gid) == (SOMEONE_UID, SOMEONE_UID)
    link.close()


def test_modes_do_not_depend_on_the_umask(open_tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        link = Link.create(open_tmp_path / "run", ID)
    finally:
        os.umask(before)
    assert mode(link.directory.parent) == 0o711
    assert mode(link.directory / SOCKET_NAME) == 0o666
    link.close()


def test_the_length_of_the_data_directorys_path_does_not_matter(open_tmp_path: Path) -> None:
    deep = open_tmp_path.joinpath(*["d" * 40] * 5) / "run"
    assert len(str(deep)) > 200
    link = Link.create(deep, ID)
    connect(link.directory).close()
    link.close()
    again = Link.reopen(deep, ID)
    connect(again.directory).close()
    again.close()


def test_a_socket_that_a_crash_left_is_taken_over(open_tmp_path: Path) -> None:
    crashed = Link.create(open_tmp_path / "run", ID)
    link = Link.reopen(open_tmp_path / "run", ID)  # the crashed one was never closed
    assert link.reopened
    assert not crashed.reopened
    crashed.close()
    connect(link.directory).close()
    link.close()


def test_a_link_to_another_socket_is_not_followed(open_tmp_path: Path) -> None:
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(open_tmp_path / "other"))
    (open_tmp_path / "other").chmod(0o600)
    Link.create(open_tmp_path / "run", ID).close()
    planted = open_tmp_path / "run" / ID / SOCKET_NAME
    planted.unlink()
    planted.symlink_to(open_tmp_path / "other")
    link = Link.reopen(open_tmp_path / "run", ID)
    assert not planted.is_symlink()
    assert mode(open_tmp_path / "other") == 0o600
    link.close()
    other.close()


def test_a_planted_directory_is_not_followed(open_tmp_path: Path) -> None:
    (open_tmp_path / "run").mkdir()
    (open_tmp_path / "elsewhere").mkdir()
    (open_tmp_path / "run" / ID).symlink_to(open_tmp_path / "elsewhere")
    with pytest.raises(OSError):
        Link.reopen(open_tmp_path / "run", ID)
    assert not list((open_tmp_path / "elsewhere").iterdir())


def test_nothing_is_left_of_one_that_could_not_be_made(open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, mode: int) -> None:
        raise PermissionError

    run_dir = open_tmp_path / "run"
    run_dir.mkdir()
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are what is compared
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", refuse)
        with pytest.raises(PermissionError):
            Link.create(run_dir, ID)
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert not list(run_dir.iterdir())


def test_descriptors_do_not_reach_children(open_tmp_path: Path) -> None:
    link = Link.create(open_tmp_path / "run", ID)
    assert not os.get_inheritable(link._listener.fileno())
    link.close()


def test_removal_takes_the_directory_and_may_happen_twice(open_tmp_path: Path) -> None:
    link = Link.create(open_tmp_path / "run", ID)
    link.close()
    link.close()
    assert link.directory.exists()
    for _ in range(2):
        Link.remove(open_tmp_path / "run", ID)
        assert not link.directory.exists()


@pytest.mark.anyio
async def test_connections_are_taken_only_while_one_is_expected(open_tmp_path: Path) -> None:
    link = Link.create(open_tmp_path / "run", ID)
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()
    early = connect(link.directory)
    link.accept(taken.put_nowait)
    (await asyncio.wait_for(taken.get(), 60)).close()
    link.pause()
    late = connect(link.directory)
    await asyncio.sleep(0)
    assert taken.empty()
    link.refuse_waiting()
    assert late.recv(1) == b""  # closed, unread
    link.close()
    early.close()
    late.close()


@pytest.mark.anyio
async def test_a_foreign_user_id_is_refused(open_tmp_path: Path) -> None:
    link = Link.create(open_tmp_path / "run", ID, peer_uid=os.geteuid() + 1)
    taken: list[socket.socket] = []
    link.accept(taken.append)
    foreign = connect(link.directory)
    assert await asyncio.to_thread(foreign.recv, 1) == b""
    assert not taken
    link.close()
    foreign.close()


@pytest.mark.anyio
async def test_the_expected_user_id_is_taken(open_tmp_path: Path) -> None:
    link = Link.create(open_tmp_path / "run", ID, peer_uid=os.geteuid())
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()
    link.accept(taken.put_nowait)
    own = connect(link.directory)
    accepted = await asyncio.wait_for(taken.get(), 60)
    assert not accepted.getblocking()
    for each in (accepted, own):
        each.close()
    link.close()
