"""Alembic's door. It runs on the connection it is handed and leaves logging alone; there is no alembic.ini."""

from alembic import context

from orchestrator.store.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
