"""`kodou sessions stop`: ends a session from outside the server that holds it, or when no server runs."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.auth.generation import Generation
from orchestrator.auth.tokens import NO_SUCH_SESSION
from orchestrator.errors import SessionNotFound
from orchestrator.records import Session, SessionState
from orchestrator.sandboxes.backend import SandboxBackend
from orchestrator.sessions.live import STOPPED
from orchestrator.sessions.sandboxes import handle
from orchestrator.sessions.shared import is_slot
from orchestrator.store.base import Store


async def stop_session(store: Store, backend: SandboxBackend, data_dir: Path, id: str) -> Session:
    """Close a session and stop its sandbox; closed already is success. A running server refuses its calls at once.
    Raises `SessionNotFound`, `StoreBusy`, `EngineUnavailable`."""
    record = await _move(store, id, SessionState.CLOSING)
    await asyncio.to_thread(Generation(data_dir).bump)
    sandbox = handle(record.sandbox)
    if sandbox is not None and not is_slot(sandbox):  # a slot's server ends it, as it sees this
        await backend.stop(sandbox)
    return await _move(store, id, SessionState.CLOSED)


async def _move(store: Store, id: str, state: SessionState) -> Session:
    while True:
        record = await store.get(Session, id)
        if record is None:
            raise SessionNotFound(NO_SUCH_SESSION)
        if record.state in (state, SessionState.CLOSED):
            return record
        reason = record.reason if record.state is SessionState.CLOSING else STOPPED
        moved = replace(record, state=state, reason=reason, since=datetime.now(UTC))
        if await store.replace(moved, expected=record.revision):
            return replace(moved, revision=record.revision + 1)
