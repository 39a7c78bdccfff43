"""A store in a SQL database through SQLAlchemy Core: SQLite in the data directory, or any other by URL.

SQLite has one writer at a time, so one thread writes; reads have a few threads of their own, and in WAL mode neither
waits for the other.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from orchestrator.errors import Defect, KodouError, StoreBusy
from orchestrator.records import Record
from orchestrator.settings import Settings
from orchestrator.store.base import R, RecordExists, Store
from orchestrator.store.migrate import migrate
from orchestrator.store.schema import TABLES
from orchestrator.telemetry import log

BUSY_TIMEOUT_MS = 5000
READERS = 4
BUSY = "the store is locked, full or out of reach: try again"

T = TypeVar("T")


def open_store(settings: Settings) -> Store:
    """The store that settings name, with its tables made or brought up to date. Blocks; call it before there is a loop,
    or in a thread. Raises `StoreBusy`, `KodouError`."""
    locks = settings.data_dir / "locks"
    if settings.database_url is None:
        return SqlStore.sqlite(settings.data_dir / "kodou.sqlite", locks=locks)
    try:
        engine = sa.create_engine(settings.database_url, pool_pre_ping=True)
    except (exc.ArgumentError, ImportError) as error:
        msg = "KODOU_DATABASE_URL is no SQLAlchemy URL, or its driver is not installed (PostgreSQL: `psycopg`)"
        raise KodouError(msg) from error
    with _ours():
        migrate(engine, locks / "migrations")
    return SqlStore(engine)


class SqlStore:
    """Every method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="kodou-store-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="kodou-store-reader")

    @classmethod
    def sqlite(cls, path: Path, *, locks: Path) -> "SqlStore":
        """The file is made 0600 before SQLite opens it; its WAL takes the same mode."""
        with _ours():
            path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
            engine = sa.create_engine(
                sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}
            )
            sa.event.listen(engine, "connect", _set_pragmas)
            migrate(engine, locks / "migrations")
        return cls(engine)

    async def add(self, record: Record) -> None:
        table = TABLES[type(record)]

        def work(connection: sa.Connection) -> None:
            try:
                connection.execute(table.insert().values(_row(record)))
            except exc.IntegrityError:
                raise RecordExists(record.id) from None

        await self._run(self._writer, work)

    async def get(self, kind: type[R], id: str) -> R | None:
        query = sa.select(TABLES[kind]).where(TABLES[kind].c.id == id)

        def work(connection: sa.Connection) -> R | None:
            row = connection.execute(query).first()
            return None if row is None else kind(**row._mapping)

        return await self._run(self._readers, work)

    async def list(self, kind: type[R], **where: object) -> list[R]:
        table = TABLES[kind]
        unknown = where.keys() - table.c.keys()
        if unknown:
            msg = f"{kind.__name__} has no field {', '.join(sorted(unknown))}"
            raise ValueError(msg)
        age = table.c.created_at if "created_at" in table.c else table.c.resolved_at
        query = sa.select(table).order_by(age, table.c.id)
        for name, wanted in where.items():
            column = table.c[name]
            query = query.where(column.in_(wanted) if isinstance(wanted, tuple) else column == wanted)

        def work(connection: sa.Connection) -> list[R]:
            return [kind(**row._mapping) for row in connection.execute(query)]

        return await self._run(self._readers, work)

    async def replace(self, record: Record, *, expected: int) -> bool:
        table = TABLES[type(record)]
        update = (
            table.update()
            .where(table.c.id == record.id, table.c.revision == expected)
            .values({**_row(record), "revision": expected + 1})
        )
        return await self._run(self._writer, lambda connection: connection.execute(update).rowcount == 1)

    async def delete(self, kind: type[R], id: str) -> None:
        table = TABLES[kind]
        await self._run(self._writer, lambda connection: connection.execute(table.delete().where(table.c.id == id)))

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        self._engine.dispose()

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[sa.Connection], T]) -> T:
        asked = time.monotonic()

        def transaction() -> T:
            # While another process holds the store each waits its timeout; who came meanwhile has waited as long in the queue.
            if time.monotonic() - asked > BUSY_TIMEOUT_MS / 1000:
                raise StoreBusy(BUSY)
            with _ours(), self._engine.begin() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(threads, transaction)


def _row(record: Record) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _set_pragmas(connection: sqlite3.Connection, _: object) -> None:
    # NORMAL in WAL mode: a power cut may lose the last commits, never the database.
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


@contextmanager
def _ours() -> Iterator[None]:
    """SQLAlchemy's errors as ours. What the driver says may name paths and hosts: it goes to the log only."""
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, OSError) as error:
        log.warning("store does not answer", reason=str(getattr(error, "orig", None) or error))
        raise StoreBusy(BUSY) from None
    except exc.SQLAlchemyError as error:
        msg = "the store refused a statement"
        raise Defect(msg) from error
