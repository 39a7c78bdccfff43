"""The parts of a composition, one after another."""

from collections.abc import Mapping
from typing import Any

from runner import frames

from orchestrator.composition.calling import Calling
from orchestrator.composition.crossing import Crossing, Names, Spool, Taken, taken
from orchestrator.composition.extra import ExtraSessions
from orchestrator.composition.locating import OfStages, located
from orchestrator.composition.parts import Part, Plan, Spread, Straight
from orchestrator.composition.requests import request
from orchestrator.composition.spreading import Spreading
from orchestrator.composition.trail import Trail
from orchestrator.errors import KodouError
from orchestrator.sandboxes.events import Events
from orchestrator.sandboxes.replies import Reply, Typed, Value
from orchestrator.sessions.manager import CallOutcome


class Composition:
    """One composition, to be run once."""

    def __init__(
        self, plan: Plan, calling: Calling, extra: ExtraSessions, spool: Spool, *, max_output_bytes: int
    ) -> None:
        self._plan = plan
        self._calling = calling
        self._asked = calling.asked
        self._extra = extra
        self._spool = spool
        self._names = Names({file.name for file in calling.asked.files})
        self._trail = Trail(max_output_bytes)

    async def run(self, events: Events | None = None) -> CallOutcome:
        """Run the parts, up to the first that fails. `events` are told only where there is one part alone.

        Raises: KodouError: what `SessionManager.call` and `open` raise, and `SpoolFull`; with the place.
        """
        before, last = self._plan.before, self._plan.last
        part: Part = last
        value: Crossing | None = None
        try:
            for part in before:
                reached = await self._part(part, value)
                if not isinstance(reached, Crossing):
                    return self._ended(reached)
                value = reached
            part = last
            return self._ended(await self._straight(last, value, events=None if before else events))
        except KodouError as error:
            raise error.at(part.members()) from error
        finally:
            if events is not None:
                events.end()
            await self._extra.aclose()

    async def _part(self, part: Part, value: Crossing | None) -> Crossing | Reply:
        """What the next part is to be given, or a failure."""
        if isinstance(part, Spread):
            spreading = Spreading(part, value, self._calling, self._extra, self._names, self._spool)
            pieces = await spreading.run(self._first(part))
            return self._joined(pieces) if isinstance(pieces, list) else pieces
        reply = await self._straight(part, value)
        if not isinstance(reply, Value | Typed):
            return reply
        return self._joined([await taken(reply, self._names, self._spool)])

    def _joined(self, pieces: list[Taken]) -> Crossing:
        """The value of a part: the one there is, or of several, lists all, one list."""
        self._trail.add([piece.told for piece in pieces])
        if len(pieces) == 1:
            return pieces[0].value
        items = [item for piece in pieces for item in piece.value.items()]
        return Crossing(items, tuple(file for piece in pieces for file in piece.value.files))

    async def _straight(self, part: Straight, value: Crossing | None, *, events: Events | None = None) -> Reply:
        members = {**self._first(part), "pipeline": list(part.stages)}
        last = part is self._plan.last
        if last and self._plan.keep:
            members["keep"] = True
        forms = self._asked.forms if last else (frames.TYPED,)
        streamed = frames.STREAM if events is not None else 0
        work = request(members, self._asked.files, value, forms=forms, flags=self._asked.flags | streamed)
        outcome = await self._calling.call(part.session, work, events)
        self._calling.spend(outcome)
        return located(outcome.reply, OfStages(part))

    def _first(self, part: Part) -> Mapping[str, Any]:
        return self._plan.first if part is self._plan.parts[0] else {}

    def _ended(self, reply: Reply) -> CallOutcome:
        return self._calling.ended(self._trail.with_reply(reply))
