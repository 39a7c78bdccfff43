"""Brings a database to the newest revision of `migrations/`. Any number of processes may start at once."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from orchestrator.errors import KodouError

HEAD = "0002"
_MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 0x6B6F646F75  # "kodou"; PostgreSQL's, for servers on several machines


def migrate(engine: sa.Engine, lock: Path) -> None:
    """Apply what is missing, under the lock file and, on PostgreSQL, an advisory lock. Raises `KodouError` if a newer
    kodou wrote the database."""
    with _locked(lock):
        if _revision(engine) != HEAD:
            _upgrade(engine)


def _upgrade(engine: sa.Engine) -> None:
    # Here, not above: most opens find nothing to do, and importing Alembic takes longer than all the rest of them.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            msg = "the store was written by a newer kodou: start that version, or restore the backup made before it"
            raise KodouError(msg) from error


def _revision(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.scalar(
            sa.select(sa.column("version_num", sa.String)).select_from(sa.table("alembic_version"))
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
