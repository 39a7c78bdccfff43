"""The life of a session, as a table. Pure: no clock, no I/O; whoever applies an event carries out its effects.

    starting -> ready <-> busy        any of ready, busy -> restarting -> ready        any -> closing -> closed

`restarting` is a session without a sandbox: its next call starts a fresh one. `busy` is never stored: a call costs the
store nothing.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import NamedTuple

from orchestrator.errors import InvalidTransition
from orchestrator.records import SessionState

HISTORY = 16  # moves that an InvalidTransition tells of


@dataclass(frozen=True, slots=True)
class SandboxStarted:
    """A fresh sandbox's runner is configured, or an earlier server's was taken up."""


@dataclass(frozen=True, slots=True)
class CallBegan:
    """The first of the calls that are under way."""


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The last of the calls that were under way."""


@dataclass(frozen=True, slots=True)
class SandboxLost:
    """The sandbox has to go: its runner is gone, broke the protocol or could not be restarted."""

    reason: str


@dataclass(frozen=True, slots=True)
class CloseAsked:
    reason: str


@dataclass(frozen=True, slots=True)
class SandboxStopped:
    """Nothing of the session is left on the engine."""


Event = SandboxStarted | CallBegan | CallEnded | SandboxLost | CloseAsked | SandboxStopped


class Effect(IntEnum):
    """In the order in which they are carried out."""

    PERSIST = auto()  # write the session to the store
    STOP_SANDBOX = auto()  # and close its channel


class Move(NamedTuple):
    to: SessionState
    effects: tuple[Effect, ...] = ()


_S = SessionState
_CLOSE = Move(_S.CLOSING, (Effect.PERSIST, Effect.STOP_SANDBOX))

# An absent pair is an InvalidTransition.
TRANSITIONS: Mapping[tuple[SessionState, type[Event]], Move] = {
    (_S.STARTING, SandboxStarted): Move(_S.READY, (Effect.PERSIST,)),
    (_S.READY, CallBegan): Move(_S.BUSY),
    (_S.BUSY, CallEnded): Move(_S.READY),
    (_S.READY, SandboxLost): Move(_S.RESTARTING, (Effect.STOP_SANDBOX,)),
    (_S.BUSY, SandboxLost): Move(_S.RESTARTING, (Effect.STOP_SANDBOX,)),
    (_S.RESTARTING, SandboxStarted): Move(_S.READY, (Effect.PERSIST,)),
    (_S.STARTING, CloseAsked): _CLOSE,
    (_S.READY, CloseAsked): _CLOSE,
    (_S.BUSY, CloseAsked): _CLOSE,
    (_S.RESTARTING, CloseAsked): _CLOSE,
    (_S.CLOSING, SandboxStopped): Move(_S.CLOSED, (Effect.PERSIST,)),
}


class Machine:
    """One session's state, and how it came to be."""

    __slots__ = ("_history", "reason", "state")

    def __init__(self, state: SessionState, reason: str = "") -> None:
        self.state = state
        self.reason = reason
        self._history: deque[tuple[SessionState, Event]] = deque(maxlen=HISTORY)

    def apply(self, event: Event) -> tuple[Effect, ...]:
        """Move, and say what is to be done now. Raises `InvalidTransition`; the state is then as it was."""
        move = TRANSITIONS.get((self.state, type(event)))
        if move is None:
            came = ", ".join(f"{state} {told}" for state, told in self._history) or "nothing"
            msg = f"a session that is {self.state} does not know {event}; before it came: {came}"
            raise InvalidTransition(msg)
        if move.effects:  # calls would soon push all else out
            self._history.append((self.state, event))
            if not isinstance(event, SandboxStopped):  # why it was asked for stays
                self.reason = getattr(event, "reason", "")
        self.state = move.to
        return move.effects
