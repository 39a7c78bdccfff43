"""One list operation over several sandboxes: the session's own, and others of its kind for as long as it takes.

The list is cut into pieces that follow one another. All sandboxes are there before the first item is worked on. The first
failure in the order of the items counts, as it would without `parallel`; what runs for later items is then stopped.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from orchestrator.composition.aside import aside
from orchestrator.composition.calling import OVERDUE, UNREAD, Calling
from orchestrator.composition.crossing import Crossing, Names, Spool, Taken, taken
from orchestrator.composition.exact import Room
from orchestrator.composition.extra import ExtraSessions
from orchestrator.composition.locating import OfItems, located
from orchestrator.composition.parts import Spread
from orchestrator.composition.requests import request
from orchestrator.errors import SandboxLost
from orchestrator.sandboxes.replies import Reply, TimedOut, Typed, Value, Violation, WorkerDied
from orchestrator.sandboxes.work import File, Work
from orchestrator.sessions.manager import CallOutcome


class Spreading:
    """One list operation, to be run once."""

    def __init__(
        self,
        part: Spread,
        value: Crossing | None,
        calling: Calling,
        extra: ExtraSessions,
        names: Names,
        spool: Spool,
        room: Room,
    ) -> None:
        """`value`: the list that the part before came to. `room`: for what the pieces come to."""
        self._part = part
        self._size = calling.asked.size + (value.size if value else 0)
        self._items: Sequence[Any] = part.items if part.items is not None else value.value if value else ()
        self._files: tuple[File, ...] = calling.asked.files + (value.files if value else ())
        self._calling = calling
        self._extra = extra
        self._names = names
        self._spool = spool
        self._room = room
        self._own = CallOutcome(OVERDUE, False, 0.0, 0.0, 0.0)  # what became of the session's own request

    async def run(self, first: Mapping[str, Any]) -> list[Taken] | Reply:
        """What the pieces came to, in their order, or the first failure.

        Args:    first: further members for the session's own request.
        Raises:  what `ExtraSessions.open` and `SessionManager.call` do. TooManyValues.
        """
        pieces = _cut(len(self._items), self._part.parallel)
        self._calling.begin()
        began = perf_counter()
        try:
            async with self._calling.in_time():
                others = await self._open(len(pieces) - 1)
        except TimeoutError:
            return replace(OVERDUE, place=self._part.place.members())
        opened = perf_counter()
        sessions = [self._part.session, *others]
        further = [first, *({} for _ in others)]
        tasks = [asyncio.create_task(self._piece(*each)) for each in zip(sessions, pieces, further, strict=True)]
        try:
            return await self._in_order(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            started_s = opened - began if others else self._own.started_s
            self._calling.spend(replace(self._own, started_s=started_s, ran_s=perf_counter() - opened))

    async def _open(self, count: int) -> list[str]:
        principal = self._calling.asked.principal
        sessions = self._calling.sessions
        live = sessions.cached(self._part.session, principal) or await sessions.find(self._part.session, principal)
        return await self._extra.open(live.record, count)

    async def _in_order(self, tasks: Sequence[asyncio.Task[Taken | Reply]]) -> list[Taken] | Reply:
        done = []
        for task in tasks:
            result = await task
            if not isinstance(result, Taken):
                return result
            done.append(result)
        return done

    async def _piece(self, session: str, piece: range, further: Mapping[str, Any]) -> Taken | Reply:
        part = self._part
        counting = OfItems(part, piece.start, len(piece), len(self._items))
        try:
            work = await aside(self._size, self._work, piece, further)
            outcome = await self._calling.call(session, work, part)
            if session == part.session:
                self._own = outcome
            if isinstance(outcome.reply, Value | Typed):
                async with self._calling.in_time():
                    return await taken(outcome.reply, self._names, self._spool, self._room)
            if session != part.session:
                return located(_elsewhere(outcome.reply), counting)
            return located(outcome.reply, counting)
        except TimeoutError:
            return located(UNREAD, counting)
        finally:
            self._extra.close(session)

    def _work(self, piece: range, further: Mapping[str, Any]) -> Work:
        part, items = self._part, [self._items[number] for number in piece]
        if part.constructor is None:
            members: Mapping[str, Any] = {"pipeline": [{"listop": part.operation}], "piped": items}
        else:
            members = {"listop": {**part.operation, "list": [*items, part.constructor]}}
        return request({**members, **further}, self._files, flags=self._calling.asked.flags)


def _cut(count: int, pieces: int) -> list[range]:
    """Where `count` items are cut into at most so many pieces of nearly one size; at least one, be it empty."""
    pieces = max(min(pieces, count), 1)
    return [range(count * number // pieces, count * (number + 1) // pieces) for number in range(pieces)]


def _elsewhere(reply: Reply) -> Reply:
    """A failure in a sandbox that is not the session's: the session itself is as it was. Raises `SandboxLost`."""
    if isinstance(reply, Violation):
        msg = "one of the sandboxes that a list operation was spread over ended under it"
        raise SandboxLost(msg)
    return replace(reply, restarted=False) if isinstance(reply, TimedOut | WorkerDied) else reply
