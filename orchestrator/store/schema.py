"""Tables, one for each kind of record and one column for each of its fields.

`migrations/` makes and changes them; a test holds both to be the same.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from orchestrator.records import Alias, Environment, EnvironmentState, Key, Resources, Session, SessionState

METADATA = sa.MetaData()


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware times as text of one width, in UTC: they sort as they are, and come back as they went, in any database."""

    impl = sa.String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


class StringMap(sa.types.TypeDecorator[dict[str, str]]):
    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(dict(value), sort_keys=True)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> dict[str, str]:
        return dict(json.loads(value or "{}"))


class StringSet(sa.types.TypeDecorator[frozenset[str]]):
    """A sorted JSON list."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Iterable[str] | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(sorted(value))

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> frozenset[str]:
        return frozenset(json.loads(value or "[]"))


class ResourcesText(sa.types.TypeDecorator[Resources]):
    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Resources | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(asdict(value))

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Resources | None:
        return None if value is None else Resources(**json.loads(value))


class EnumText(sa.types.TypeDecorator[StrEnum]):
    """An enum's value; a new member needs no migration."""

    impl = sa.String(16)
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: StrEnum | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else self.kind(value).value

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> StrEnum | None:
        return None if value is None else self.kind(value)


def _column(name: str, type_: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=options.pop("nullable", False), **options)


def _id(length: int) -> sa.Column[Any]:
    return sa.Column("id", sa.String(length), primary_key=True)


KEYS = sa.Table(
    "keys",
    METADATA,
    _id(32),
    _column("name", sa.String(64)),
    _column("owner", sa.String(64)),
    _column("scopes", StringSet),
    _column("secret_sha256", sa.String(64)),
    _column("created_at", UtcDateTime),
    _column("expires_at", UtcDateTime, nullable=True),
    _column("revoked_at", UtcDateTime, nullable=True),
    _column("revision", sa.Integer),
)

ENVIRONMENTS = sa.Table(
    "environments",
    METADATA,
    _id(128),
    _column("language", sa.String(32)),
    _column("version", sa.String(64)),
    _column("packages", StringMap),
    _column("lock", sa.Text),
    _column("backend", sa.String(32)),
    _column("image_ref", sa.Text, nullable=True),
    _column("size_bytes", sa.BigInteger),
    _column("state", EnumText(EnvironmentState)),
    _column("reason", sa.Text),
    _column("since", UtcDateTime),
    _column("created_at", UtcDateTime),
    _column("last_used_at", UtcDateTime),
    _column("uses", sa.BigInteger),
    _column("document", sa.Text),
    _column("revision", sa.Integer),
)

ALIASES = sa.Table(
    "aliases",
    METADATA,
    _id(128),
    _column("environment_id", sa.String(128)),
    _column("resolved_at", UtcDateTime),
    _column("revision", sa.Integer),
)

SESSIONS = sa.Table(
    "sessions",
    METADATA,
    _id(32),
    _column("owner", sa.String(64)),
    _column("key_id", sa.String(32)),
    _column("environment_id", sa.String(128)),
    _column("resources", ResourcesText),
    _column("network", sa.String(16)),
    _column("env", StringMap),
    _column("ttl_s", sa.Integer),
    _column("state", EnumText(SessionState)),
    _column("reason", sa.Text),
    _column("since", UtcDateTime),
    _column("created_at", UtcDateTime),
    _column("last_used_at", UtcDateTime),
    _column("expires_at", UtcDateTime),
    _column("sandbox", StringMap),
    _column("revision", sa.Integer),
    # Closed sessions outnumber the rest by far: what asks for live ones must not read them all.
    sa.Index("sessions_state", "state"),
)

TABLES: dict[type, sa.Table] = {Key: KEYS, Environment: ENVIRONMENTS, Alias: ALIASES, Session: SESSIONS}
