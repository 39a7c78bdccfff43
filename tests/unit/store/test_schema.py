import io
from dataclasses import fields
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from orchestrator.errors import KodouError
from orchestrator.records import Alias, Environment, Key, Session
from orchestrator.store import migrate as migrate_module
from orchestrator.store.migrate import HEAD, migrate
from orchestrator.store.schema import METADATA, TABLES


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    return sa.create_engine(f"sqlite:///{tmp_path}/store.sqlite", poolclass=sa.NullPool)


@pytest.mark.parametrize("kind", [Key, Environment, Alias, Session])
def test_each_field_of_a_record_is_a_column(kind: type) -> None:
    table = TABLES[kind]
    assert [field.name for field in fields(kind)] == table.c.keys()
    optional = {field.name for field in fields(kind) if "None" in str(field.type)}
    assert {column.name for column in table.c if column.nullable} == optional


def test_the_migrations_make_the_schema(engine: sa.Engine, tmp_path: Path) -> None:
    migrate(engine, tmp_path / "locks" / "migrations")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": _same_type})
        assert compare_metadata(context, METADATA) == []


def test_head_is_the_newest_revision(tmp_path: Path) -> None:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(Path(migrate_module.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_migrating_twice_changes_nothing(engine: sa.Engine, tmp_path: Path) -> None:
    migrate(engine, tmp_path / "lock")
    migrate(engine, tmp_path / "lock")
    assert set(sa.inspect(engine).get_table_names()) == {*METADATA.tables, "alembic_version"}


def test_environments_from_before_locks_were_kept_stay_and_have_none(engine: sa.Engine, tmp_path: Path) -> None:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(Path(migrate_module.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        older = [column.name for column in TABLES[Environment].c if column.name != "document"]
        values = ", ".join("'x'" for _ in older)
        connection.execute(sa.text(f"insert into environments ({', '.join(older)}) values ({values})"))
    migrate(engine, tmp_path / "lock")
    with engine.connect() as connection:
        assert connection.execute(sa.text("select id, document from environments")).all() == [("x", "")]


def test_a_store_of_a_newer_kodou_is_refused_and_left_as_it_is(engine: sa.Engine, tmp_path: Path) -> None:
    migrate(engine, tmp_path / "lock")
    with engine.begin() as connection:
        connection.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(KodouError, match="newer"):
        migrate(engine, tmp_path / "lock")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("select version_num from alembic_version")) == "9999"


def test_a_migration_leaves_logging_alone(engine: sa.Engine, tmp_path: Path) -> None:
    import logging

    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("kodou").disabled)
    migrate(engine, tmp_path / "lock")
    assert (root.level, list(root.handlers), logging.getLogger("kodou").disabled) == before


def _same_type(context: object, inspected: object, column: sa.Column, found: sa.types.TypeEngine, wanted) -> bool:  # type: ignore[no-untyped-def,type-arg]
    """False: the same. A decorated type is what it is stored as."""
    stored = wanted.impl if isinstance(wanted, sa.types.TypeDecorator) else wanted
    return found._type_affinity is not stored._type_affinity or getattr(found, "length", None) != getattr(
        stored, "length", None
    )
