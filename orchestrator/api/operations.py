"""Setups that clients poll (`Prefer: respond-async`): kept for an hour after their end, seen by their owner alone."""

import asyncio
import secrets
import time
from collections import Counter
from contextlib import ExitStack, suppress

from orchestrator.api.replies import Members
from orchestrator.api.setups import Setup
from orchestrator.errors import KodouError, NotFound
from orchestrator.unforeseen import ours

KEPT_S = 3600.0
KEPT_PER_OWNER = 50


class Operation:
    """One setup under way, or its outcome."""

    def __init__(self, setup: Setup, place: ExitStack) -> None:
        self.id = secrets.token_hex(16)
        self.owner = setup.owner
        self.phase = "resolve"
        self.ended_at: float | None = None  # time.monotonic()
        self._setup = setup
        self._following = asyncio.create_task(self._follow())
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: place.close())

    def outcome(self) -> Members | None:
        """The setup's body; None while it runs. Raises the setup's `KodouError`."""
        return self._task.result() if self._task.done() else None

    def receipt(self) -> dict[str, str]:
        """Further headers of the reply that tells a good outcome."""
        return self._setup.receipt()

    async def aclose(self) -> None:
        for task in (self._task, self._following):
            task.cancel()
            with suppress(asyncio.CancelledError, KodouError):
                await task

    async def _run(self) -> Members:
        try:
            return await self._setup.finish() or {}
        except KodouError:
            raise
        except Exception as exc:
            raise ours(exc, "a setup that is polled") from exc
        finally:
            self.ended_at = time.monotonic()
            self._following.cancel()

    async def _follow(self) -> None:
        with suppress(KodouError):  # `_run` has it too, and tells it
            async for event in self._setup.build.events():
                self.phase = event.phase


class Operations:
    def __init__(self) -> None:
        self._known: dict[str, Operation] = {}

    def start(self, setup: Setup, place: ExitStack) -> Operation:
        """`place`: among the setups under way; closed when this one ends."""
        self._forget()
        operation = Operation(setup, place)
        self._known[operation.id] = operation
        return operation

    def get(self, id: str, owner: str) -> Operation:
        """Raises: NotFound: unknown, forgotten, or another's."""
        self._forget()
        operation = self._known.get(id)
        if operation is None or operation.owner != owner:
            msg = "no such setup; its outcome is kept for an hour"
            raise NotFound(msg)
        return operation

    async def aclose(self) -> None:
        for operation in self._known.values():
            await operation.aclose()
        self._known.clear()

    def _forget(self) -> None:
        """Drop what is too old; and, of what has ended, each owner's oldest past the bound."""
        now = time.monotonic()
        kept: Counter[str] = Counter()
        for each in reversed(tuple(self._known.values())):
            if each.ended_at is None:
                continue
            kept[each.owner] += 1
            if kept[each.owner] > KEPT_PER_OWNER or now - each.ended_at > KEPT_S:
                del self._known[each.id]
