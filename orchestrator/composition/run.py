"""The parts of a composition, one after another."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from runner import frames

from orchestrator.composition.aside import aside
from orchestrator.composition.calling import UNREAD, Calling
from orchestrator.composition.crossing import Crossing, Names, Spool, Taken, taken
from orchestrator.composition.exact import Room, TooManyValues
from orchestrator.composition.extra import ExtraSessions
from orchestrator.composition.locating import OfStages, located
from orchestrator.composition.parts import Part, Plan, Spread, Straight
from orchestrator.composition.requests import request
from orchestrator.composition.spreading import Spreading
from orchestrator.composition.trail import Trail
from orchestrator.errors import KodouError
from orchestrator.sandboxes.events import Events
from orchestrator.sandboxes.replies import InForm, NotSerializable, Raised, Reply, Typed, Value
from orchestrator.sessions.manager import CallOutcome


class Composition:
    """One composition, to be run once."""

    def __init__(
        self,
        plan: Plan,
        calling: Calling,
        extra: ExtraSessions,
        spool: Spool,
        *,
        max_output_bytes: int,
        max_values: int,
    ) -> None:
        """`max_values`: those that a part may hand over where they have to be taken apart."""
        self._plan = plan
        self._calling = calling
        self._asked = calling.asked
        self._extra = extra
        self._spool = spool
        self._max_values = max_values
        self._names = Names({file.name for file in calling.asked.files})
        self._trail = Trail(max_output_bytes)

    async def run(self, events: Events | None = None) -> CallOutcome:
        """Run the parts, up to the first that fails. `events` are told what each prints, and the items of the last one.

        Raises: KodouError: what `SessionManager.call` and `open` raise, and `SpoolFull`; with the place.
        """
        before, last = self._plan.before, self._plan.last
        self._calling.events = events
        part: Part = last
        value: Crossing | None = None
        try:
            for part in before:
                reached = await self._part(part, value)
                if not isinstance(reached, Crossing):
                    return await self._ended(reached)
                value = reached
            part = last
            return await self._ended(await self._straight(last, value))
        except KodouError as error:
            raise error.at(part.members()) from error
        finally:
            if events is not None:
                events.end()
            self._extra.close_all()

    async def _part(self, part: Part, value: Crossing | None) -> Crossing | Reply:
        """What the next part is to be given, or a failure."""
        room = Room(self._max_values)
        try:
            pieces = await self._pieces(part, value, room)
            if not isinstance(pieces, list):
                return pieces
            self._trail.add([piece.told for piece in pieces])
            return await aside(sum(piece.value.size for piece in pieces), _joined, pieces, room)
        except TooManyValues as exc:
            return _too_large(part, str(exc))

    async def _pieces(self, part: Part, value: Crossing | None, room: Room) -> list[Taken] | Reply:
        """What comes out of the part, in its order, or a failure."""
        if isinstance(part, Spread):
            if part.items is None and value is not None:
                value = replace(value, value=await aside(value.size, value.items, Room(self._max_values)))
            spreading = Spreading(part, value, self._calling, self._extra, self._names, self._spool, room)
            return await spreading.run(self._first(part))
        reply = await self._straight(part, value)
        if not isinstance(reply, Value | Typed):
            return reply
        try:
            async with self._calling.in_time():
                return [await taken(reply, self._names, self._spool, room)]
        except TimeoutError:
            return located(UNREAD, OfStages(part))

    async def _straight(self, part: Straight, value: Crossing | None) -> Reply:
        members = {**self._first(part), "pipeline": list(part.stages)}
        last = part is self._plan.last
        if last and self._plan.keep:
            members["keep"] = True
        forms = self._asked.forms if last else (frames.TYPED,)
        size = self._asked.size + (value.size if value else 0)
        work = await aside(size, request, members, self._asked.files, value, forms=forms, flags=self._asked.flags)
        outcome = await self._calling.call(part.session, work, part)
        self._calling.spend(outcome)
        return located(outcome.reply, OfStages(part))

    def _first(self, part: Part) -> Mapping[str, Any]:
        return self._plan.first if part is self._plan.parts[0] else {}

    async def _ended(self, reply: Reply) -> CallOutcome:
        size = len(reply.body) if isinstance(reply, Value | Typed | Raised | NotSerializable) else 0
        try:
            return self._calling.ended(await aside(size, self._trail.with_reply, reply))
        except BaseException:
            if isinstance(reply, Typed | InForm):
                await reply.content.aclose()
            raise


def _joined(pieces: Sequence[Taken], room: Room) -> Crossing:
    """The value of a part: the one there is, or of several, lists all, one list. Raises `SandboxLost`, `TooManyValues`."""
    if len(pieces) == 1:
        return pieces[0].value
    items = [item for piece in pieces for item in piece.value.items(room)]
    files = tuple(file for piece in pieces for file in piece.value.files)
    return Crossing(items, files, sum(piece.value.size for piece in pieces))


def _too_large(part: Part, detail: str) -> Reply:
    members = {"error": True, "code": "reply_too_large", "detail": detail, **part.members()}
    return NotSerializable(msgspec.json.encode(members))
