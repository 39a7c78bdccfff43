"""What the store knows of environments and aliases. Every change is a compare-and-set, tried until it is the first."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from orchestrator.environments.lock import Lock
from orchestrator.environments.lock_document import LockDocument
from orchestrator.environments.states import moved
from orchestrator.errors import NotFound
from orchestrator.records import Alias, Environment, EnvironmentState, Session, SessionState
from orchestrator.sandboxes.backend import Image
from orchestrator.store.base import RecordExists, Store

LIVE_SESSIONS = tuple(state for state in SessionState if state is not SessionState.CLOSED)
MAX_REASON_CHARS = 500


class Catalog:
    """Has no state of its own: any number may work on one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, environment_id: str) -> Environment | None:
        return await self._store.get(Environment, environment_id)

    async def on(self, backend: str, *states: EnvironmentState) -> list[Environment]:
        """A backend's environments in one of these states, oldest first."""
        return await self._store.list(Environment, backend=backend, state=states)

    async def plan(self, document: LockDocument, lock: Lock, *, backend: str) -> None:
        """Have a record of it, if there is none."""
        now = datetime.now(UTC)
        environment = Environment(
            id=document.environment_id,
            language=document.language,
            version=document.python,
            packages=dict(lock.packages),
            lock=lock.text,
            backend=backend,
            image_ref=None,
            size_bytes=0,
            state=EnvironmentState.PLANNED,
            reason="",
            since=now,
            created_at=now,
            last_used_at=now,
            document=json.dumps(document.members(), separators=(",", ":")),
        )
        if await self._store.get(Environment, environment.id) is None:
            with suppress(RecordExists):  # another was first, with the same content: the id is its digest
                await self._store.add(environment)

    async def building(self, environment_id: str) -> Environment:
        return await self._move(environment_id, EnvironmentState.BUILDING, "")

    async def failed(self, environment_id: str, reason: str) -> Environment:
        return await self._move(environment_id, EnvironmentState.FAILED, reason)

    async def pruned(self, environment_id: str, reason: str) -> Environment:
        return await self._move(environment_id, EnvironmentState.PRUNED, reason)

    async def ready(self, environment_id: str, image: Image) -> Environment:
        def change(environment: Environment, now: datetime) -> Environment:
            ready = moved(environment, EnvironmentState.READY, reason="", now=now)
            return replace(ready, image_ref=image.ref, size_bytes=image.size_bytes, last_used_at=now)

        return await self._change(environment_id, change)

    async def touch(self, environment_id: str) -> None:
        """One more use, now."""
        await self._change(
            environment_id,
            lambda environment, now: replace(environment, last_used_at=now, uses=environment.uses + 1),
        )

    async def alias(self, request: str) -> Alias | None:
        return await self._store.get(Alias, request)

    async def point(self, request: str, environment_id: str) -> str | None:
        """Let a request's digest stand for an environment, from now on. Returns the one it stood for, if another."""
        while True:
            known = await self._store.get(Alias, request)
            alias = Alias(id=request, environment_id=environment_id, resolved_at=datetime.now(UTC))
            if known is None:
                try:
                    await self._store.add(alias)
                except RecordExists:
                    continue
                return None
            if await self._store.replace(alias, expected=known.revision):
                return None if known.environment_id == environment_id else known.environment_id

    async def in_use(self) -> frozenset[str]:
        """Ids of environments that a session not yet closed stands on."""
        sessions = await self._store.list(Session, state=LIVE_SESSIONS)
        return frozenset(session.environment_id for session in sessions)

    async def _move(self, environment_id: str, state: EnvironmentState, reason: str) -> Environment:
        return await self._change(
            environment_id,
            lambda environment, now: moved(environment, state, reason=reason[:MAX_REASON_CHARS], now=now),
        )

    async def _change(self, environment_id: str, change: Callable[[Environment, datetime], Environment]) -> Environment:
        while True:
            environment = await self._store.get(Environment, environment_id)
            if environment is None:
                msg = f"no environment {environment_id}"
                raise NotFound(msg)
            changed = change(environment, datetime.now(UTC))
            if await self._store.replace(changed, expected=environment.revision):
                return replace(changed, revision=environment.revision + 1)
