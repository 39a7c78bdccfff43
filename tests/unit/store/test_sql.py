"""What SQLite adds to the contract: files, modes, locks, and a disk that is full."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.errors import KodouError, StoreBusy
from orchestrator.records import Alias, Key
from orchestrator.settings import Settings
from orchestrator.store import sql
from orchestrator.store.sql import SqlStore, open_store

pytestmark = pytest.mark.anyio

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def alias(id: str = "a") -> Alias:
    return Alias(id, "environment", NOW)


def modes(directory: Path) -> list[int]:
    return [file.stat().st_mode & 0o777 for file in directory.glob("kodou.sqlite*")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kodou.sqlite"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    made = open_store(Settings(data_dir=tmp_path))
    assert isinstance(made, SqlStore)
    yield made
    await made.close()


async def test_what_was_kept_is_there_after_a_restart(store: SqlStore, tmp_path: Path) -> None:
    await store.add(alias())
    await store.close()
    again = open_store(Settings(data_dir=tmp_path))
    assert await again.get(Alias, "a") == alias()
    await again.close()


async def test_the_store_s_files_are_the_server_s_own(store: SqlStore, tmp_path: Path) -> None:
    await store.add(alias())
    assert modes(tmp_path) == [0o600] * 3  # the WAL and its index too


async def test_a_store_that_others_could_read_is_closed_to_them(store: SqlStore, tmp_path: Path, path: Path) -> None:
    await store.close()
    os.chmod(path, 0o644)  # noqa: PTH101 - ASYNC240 minds the other way
    again = open_store(Settings(data_dir=tmp_path))
    await again.close()
    assert modes(tmp_path) == [0o600]


async def test_connections_are_set_up(store: SqlStore) -> None:
    with store._engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert found == ["wal", 1, 1, 5000]


async def test_a_write_waits_for_another_s_and_then_succeeds(store: SqlStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    await store.add(alias())
    release.join()
    other.close()
    assert await store.get(Alias, "a") == alias()


async def test_a_store_locked_for_too_long_is_busy_and_tells_no_path(
    store: SqlStore, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "BUSY_TIMEOUT_MS", 50)
    store._engine.dispose()  # connections are set up anew
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreBusy) as busy:
        await store.add(alias())
    assert str(tmp_path) not in f"{busy.value} {busy.value.__cause__}"
    assert await store.get(Alias, "a") is None  # readers do not wait for a writer
    other.execute("COMMIT")
    other.close()
    await store.add(alias())


async def test_a_full_disk_is_busy_reads_go_on_and_it_recovers(store: SqlStore) -> None:
    await store.add(alias())

    def limit(pages: int) -> None:
        with store._engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    big = Key("k", "n" * 200_000, "o", frozenset(), "", NOW)
    limit(1)  # no less than what there is now
    with pytest.raises(StoreBusy):
        await store.add(big)
    assert await store.get(Alias, "a") == alias()
    limit(1_000_000)
    await store.add(big)


async def test_a_store_that_cannot_be_written_is_busy(store: SqlStore) -> None:
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
    with pytest.raises(StoreBusy):
        await store.add(alias())


async def test_the_loop_runs_on_while_the_store_waits(store: SqlStore, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    adding = asyncio.create_task(store.add(alias()))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not adding.done()
    other.execute("COMMIT")
    other.close()
    await adding


def test_processes_that_start_at_once_have_one_store(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from orchestrator.settings import Settings; from orchestrator.store.sql import open_store;"
        "settings = Settings(data_dir=sys.argv[1]); sys.stdin.read(1); asyncio.run(open_store(settings).close())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    results = []
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in started:
        _, stderr = process.communicate(timeout=240)
        results.append((process.returncode, stderr))
    assert results == [(0, b"")] * 3


def test_a_url_of_no_known_database_is_refused(tmp_path: Path) -> None:
    for url in ("nonsense", "oracle+nodriver://x/y"):
        with pytest.raises(KodouError, match="KODOU_DATABASE_URL"):
            open_store(Settings(data_dir=tmp_path, database_url=url))


async def test_any_url_makes_a_store(tmp_path: Path) -> None:
    store = open_store(Settings(data_dir=tmp_path / "data", database_url=f"sqlite:///{tmp_path}/other.sqlite"))
    await store.add(alias())
    assert await store.get(Alias, "a") == alias()
    await store.close()
    assert not (tmp_path / "data" / "kodou.sqlite").exists()


def test_a_data_directory_that_cannot_be_made_is_busy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreBusy):
        open_store(Settings(data_dir=tmp_path / "file" / "data"))
