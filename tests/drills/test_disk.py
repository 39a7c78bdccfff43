"""Fault 7: the data directory's disk is full, at rest and in mid-build. Nothing breaks, and once there is room all goes on."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import engine_required
from tests.drills.at_rest import at_rest, back_to
from tests.drills.conftest import drilled
from tests.drills.crowds import until
from tests.made_index import MadeIndex, made_index
from tests.made_packages import wheel
from tests.servers import Server

SETUP = "/environment/python/setup"
MB = 1024 * 1024
DISK_MB = 128
PACKAGE_MB = 20
BUSY = (503, "store_busy")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of a few megabytes."""
    if os.geteuid() != 0:
        (pytest.fail if engine_required() else pytest.skip)("only root can mount a small disk")
    path = Path(tempfile.mkdtemp(prefix="kodou-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=711", "kodou-drill", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
        path.rmdir()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[MadeIndex]:
    module = f"def main():\n    return 5\n\nTEXT = '{'x' * PACKAGE_MB * MB}'\n"
    with made_index(tmp_path, partial(wheel, name="large", module=module)) as made:
        yield made


def test_a_full_disk_stops_what_has_to_write_and_nothing_else(backend: str, small_disk: Path) -> None:
    with drilled(backend, parent=small_disk) as server:
        before = at_rest(server)
        live, closing_one = server.session("bob"), server.session("bob")
        client = server.client()
        ballast = _fill(small_disk, leave_mb=0)
        refused = [client.post(SETUP, json={}) for _ in range(3)]
        assert {(reply.status_code, reply.json()["code"]) for reply in refused} == {BUSY}
        assert all(int(reply.headers["Retry-After"]) > 0 for reply in refused)
        assert not any(str(server.data_dir) in reply.text for reply in refused)
        assert [live.value("operator.add", number, 1) for number in range(20)] == list(range(1, 21))
        assert live.call("time.sleep", 30, timeout=100)["code"] == "timeout"
        assert client.get("/session").json()["sessions"] == []
        assert client.get("/environment/python").status_code == 200
        # It takes no calls from here on, whether that could be written down or not.
        reply = closing_one.client.request("DELETE", "/session", json={"sessionid": closing_one.id})
        assert (reply.status_code, reply.json().get("code")) in ((200, None), BUSY)
        assert closing_one.post("math.sqrt", 4).status_code == 404
        ballast.unlink()
        session = server.session()
        assert session.value("math.sqrt", 9) == 3.0
        for each in (session, live):
            each.close()
        back_to(before, server)
        _check_store(server)


def test_a_disk_that_is_full_for_a_package_is_told_and_the_next_build_finds_room(
    backend: str, small_disk: Path, index: MadeIndex
) -> None:
    with drilled(backend, parent=small_disk, KODOU_INDEX_URL=index.url) as server:
        server.session("warm").close()
        before = at_rest(server)
        _refused_until_there_is_room(server, small_disk, leave_mb=PACKAGE_MB // 4)
        back_to(before, server)


@pytest.mark.bubblewrap
def test_a_disk_that_fills_up_in_mid_install_is_told_and_the_next_build_finds_room(
    small_disk: Path, index: MadeIndex
) -> None:
    # On docker, what a build writes lies on the engine's disk.
    with drilled("bubblewrap", parent=small_disk, KODOU_INDEX_URL=index.url) as server:
        server.session("warm").close()
        before = at_rest(server)
        _refused_until_there_is_room(server, small_disk, leave_mb=PACKAGE_MB + PACKAGE_MB // 2)
        back_to(before, server)


def _refused_until_there_is_room(server: Server, disk: Path, *, leave_mb: int) -> None:
    client = server.client()
    ballast = _fill(disk, leave_mb=leave_mb)
    reply = client.post(SETUP, json={"dependencies": ["large"]})
    assert (reply.status_code, reply.json()["code"]) == BUSY, reply.text
    assert str(server.data_dir) not in reply.text
    ballast.unlink()
    session = server.session(dependencies=["large"])
    assert session.value("large.main") == 5
    session.close()
    _check_store(server)


def _fill(disk: Path, *, leave_mb: int) -> Path:
    """Leave so much room, and no more; the file to be removed for the rest."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        if leave_mb:
            file.write(bytes(shutil.disk_usage(disk).free - leave_mb * MB))
        else:
            with suppress(OSError):
                while file.write(bytes(MB)):
                    pass
            with suppress(OSError):
                while file.write(bytes(4096)):
                    pass
    return ballast


def _check_store(server: Server) -> None:
    with closing(sqlite3.connect(server.data_dir / "kodou.sqlite")) as connection:
        until(lambda: connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), "a sound store")
