"""One call on its way through a channel: where it is, what it took, and what is timed of it. Data; `calls.py` moves it."""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from struct import Struct
from time import perf_counter

from orchestrator.sandboxes.events import Events
from orchestrator.sandboxes.incoming import Incoming
from orchestrator.sandboxes.replies import Exited, Reply, TimedOut, WorkerDied
from orchestrator.sandboxes.work import Run, Work

# Unguessable: a process that an earlier call left behind is not to answer for a later one.
_IDS = Struct("128Q")


def _random_ids() -> Iterator[int]:
    while True:  # many at a time: a system call for each costs more than all else that is done for a `Call`
        yield from _IDS.unpack(os.urandom(_IDS.size))


_ids = _random_ids()


class Phase(Enum):
    """Where the running call is."""

    UNSENT = auto()  # waiting for a fresh worker
    SENT = auto()
    BEREFT = auto()  # its worker's connection ended; the report of the worker's end is awaited
    OVERDUE = auto()  # the deadline came; a fresh worker is awaited
    REPLIED = auto()  # the content of its reply still comes


class Call:
    """One call, from its arrival to its reply. Outlives a caller that was cancelled."""

    __slots__ = (
        "arrived",
        "began",
        "content",
        "deadline",
        "due",
        "ended",
        "events",
        "exited",
        "id",
        "missing",
        "phase",
        "reply",
        "sending",
        "step",
        "timeout_s",
        "until",
        "work",
    )

    def __init__(
        self,
        work: Work,
        timeout_s: float,
        until: float | None,
        events: Events | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.work = work
        self.timeout_s = timeout_s
        self.until = until
        self.events = events
        self.reply: asyncio.Future[Reply | Unread] = loop.create_future()
        self.id = next(_ids)
        self.phase = Phase.UNSENT
        # Its arrival, when it was sent, when its reply was there; 0 for what has not been. By a finer clock than the
        # loop's, which under uvloop goes by milliseconds.
        self.arrived = perf_counter()
        self.began = 0.0
        self.ended = 0.0
        self.deadline = 0.0  # in the loop's time, as what follows
        # The one thing that is timed in this phase, and when it is due.
        self.step: Callable[[Call], None] | None = None
        self.due = 0.0
        self.sending: asyncio.Task[None] | None = None  # of its files
        self.content: Incoming | None = None  # of its reply
        self.missing = 0  # of that, when it was last looked at
        self.exited: Exited | None = None

    def run(self, reply: Reply) -> Run:
        began = self.began or self.ended or self.arrived
        return Run(reply, began - self.arrived, max(self.ended - began, 0.0))

    def timed_out(self) -> TimedOut:
        return TimedOut(self.exited.place if self.exited else {})

    def died(self) -> WorkerDied:
        exited = self.exited or Exited()
        return WorkerDied(exited.code, exited.signal, exited.place)


@dataclass(frozen=True, slots=True)
class Unread:
    """A reply in typed form, of which the head of its files has not been read."""

    body: bytes
    content: Incoming
