"""First tables: keys, environments, aliases, sessions.

Column types are spelled out, not taken from `schema`: what this revision made must not change when `schema` does.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(name: str, length: int | None = None, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text() if length is None else sa.String(length), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return _text(name, 32, nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(32), primary_key=True),
        _text("name", 64),
        _text("owner", 64),
        _text("scopes"),
        _text("secret_sha256", 64),
        _time("created_at"),
        _time("expires_at", nullable=True),
        _time("revoked_at", nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
    )
    op.create_table(
        "environments",
        sa.Column("id", sa.String(128), primary_key=True),
        _text("language", 32),
        _text("version", 64),
        _text("packages"),
        _text("lock"),
        _text("backend", 32),
        _text("image_ref", nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        _text("state", 16),
        _text("reason"),
        _time("since"),
        _time("created_at"),
        _time("last_used_at"),
        sa.Column("uses", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
    )
    op.create_table(
        "aliases",
        sa.Column("id", sa.String(128), primary_key=True),
        _text("environment_id", 128),
        _time("resolved_at"),
        sa.Column("revision", sa.Integer(), nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(32), primary_key=True),
        _text("owner", 64),
        _text("key_id", 32),
        _text("environment_id", 128),
        _text("resources"),
        _text("network", 16),
        _text("env"),
        sa.Column("ttl_s", sa.Integer(), nullable=False),
        _text("state", 16),
        _text("reason"),
        _time("since"),
        _time("created_at"),
        _time("last_used_at"),
        _time("expires_at"),
        _text("sandbox"),
        sa.Column("revision", sa.Integer(), nullable=False),
    )
    op.create_index("sessions_state", "sessions", ["state"])


def downgrade() -> None:
    for table in ("sessions", "aliases", "environments", "keys"):
        op.drop_table(table)
