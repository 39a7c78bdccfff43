"""Requests to runners under the one deadline of a composition, and what they took."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from orchestrator.auth.keys import Principal
from orchestrator.composition.parts import Part
from orchestrator.sandboxes.events import Events, EventsOfPart
from orchestrator.sandboxes.replies import Reply, TimedOut, Value
from orchestrator.sandboxes.work import File, Work
from orchestrator.sessions.manager import CallOutcome, SessionManager

# A runner's own answer to a deadline comes first: past this, a request still waits for its turn in a busy session.
_GRACE_S = 0.25

# Not begun, so that no interpreter had to be replaced.
OVERDUE = TimedOut(restarted=False, begun=False)
# The call had ended, but its value did not come to an end.
UNREAD = TimedOut(restarted=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """What goes for all parts. `files` are those of the request; `forms` and `flags` as in `Work`."""

    principal: Principal
    timeout_s: float
    forms: tuple[str, ...] = ()
    flags: int = 0
    files: tuple[File, ...] = ()
    size: int = 0  # bytes of the request's JSON


class Calling:
    """Makes the requests of one composition. Its deadline counts from the turn of the first."""

    def __init__(self, sessions: SessionManager, asked: Asked) -> None:
        self.sessions = sessions
        self.asked = asked
        self.events: Events | None = None  # told what the parts tell, each with its place
        self._loop = asyncio.get_running_loop()
        self._deadline: float | None = None  # in the loop's time
        self._spent = CallOutcome(Value(b""), False, 0.0, 0.0, 0.0)

    def begin(self) -> None:
        """It is the first one's turn, if it was not before."""
        if self._deadline is None:
            self._deadline = self._loop.time() + self.asked.timeout_s

    async def call(self, session: str, work: Work, part: Part) -> CallOutcome:
        """What `work`, all or a piece of `part`, comes to; `OVERDUE` where the deadline came before its turn.
        Raises what `SessionManager.call` does."""
        left_s = self.asked.timeout_s if self._deadline is None else self._deadline - self._loop.time()
        overdue = CallOutcome(OVERDUE, False, 0.0, 0.0, 0.0)
        if left_s <= 0:
            return overdue
        events = None if self.events is None else EventsOfPart(self.events, part.members())
        cut = None if self._deadline is None else self._deadline + _GRACE_S
        try:
            async with asyncio.timeout_at(cut):
                outcome = await self.sessions.call(
                    session, self.asked.principal, work, timeout_s=left_s, until=self._deadline, events=events
                )
        except TimeoutError:
            return overdue
        if self._deadline is None:
            self._deadline = self._loop.time() - outcome.ran_s + self.asked.timeout_s
        return outcome

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Raises `TimeoutError` at the deadline."""
        async with asyncio.timeout_at(self._deadline):
            yield

    def spend(self, took: CallOutcome) -> None:
        """Add what one request took; of those that ran at the same time, what they took together."""
        spent = self._spent
        self._spent = CallOutcome(
            spent.reply,  # not that of a part: it would be kept until the end
            spent.restarted or took.restarted,
            spent.queued_s + took.queued_s,
            spent.started_s + took.started_s,
            spent.ran_s + took.ran_s,
            spent.thawed_s + took.thawed_s,
        )

    def ended(self, reply: Reply) -> CallOutcome:
        """What the composition came to, with what all of it took."""
        return replace(self._spent, reply=reply)
