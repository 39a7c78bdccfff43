import itertools

import pytest

from orchestrator.errors import InvalidTransition
from orchestrator.records import SessionState as S
from orchestrator.sessions.machine import (
    HISTORY,
    TRANSITIONS,
    CallBegan,
    CallEnded,
    CloseAsked,
    Effect,
    Event,
    Machine,
    SandboxLost,
    SandboxStarted,
    SandboxStopped,
)

EVENTS: list[Event] = [
    SandboxStarted(),
    CallBegan(),
    CallEnded(),
    SandboxLost("oom"),
    CloseAsked("idle"),
    SandboxStopped(),
]
EXPECTED = {
    (S.STARTING, SandboxStarted): S.READY,
    (S.READY, CallBegan): S.BUSY,
    (S.BUSY, CallEnded): S.READY,
    (S.READY, SandboxLost): S.RESTARTING,
    (S.BUSY, SandboxLost): S.RESTARTING,
    (S.RESTARTING, SandboxStarted): S.READY,
    (S.STARTING, CloseAsked): S.CLOSING,
    (S.READY, CloseAsked): S.CLOSING,
    (S.BUSY, CloseAsked): S.CLOSING,
    (S.RESTARTING, CloseAsked): S.CLOSING,
    (S.CLOSING, SandboxStopped): S.CLOSED,
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(S, EVENTS)), ids=str)
def test_every_pair_moves_as_drawn_or_is_refused(state: S, event: Event) -> None:
    machine = Machine(state)
    to = EXPECTED.get((state, type(event)))
    if to is None:
        with pytest.raises(InvalidTransition, match=str(state)):
            machine.apply(event)
        assert machine.state is state
    else:
        machine.apply(event)
        assert machine.state is to


def test_calls_ask_nothing_of_the_store() -> None:
    machine = Machine(S.READY)
    assert machine.apply(CallBegan()) == ()
    assert machine.apply(CallEnded()) == ()


def test_whatever_leaves_a_sandbox_behind_asks_for_its_stop() -> None:
    for (_, event), move in TRANSITIONS.items():
        assert (Effect.STOP_SANDBOX in move.effects) == (event in (SandboxLost, CloseAsked))


def test_a_refusal_tells_what_came_before_but_not_each_call() -> None:
    machine = Machine(S.STARTING)
    machine.apply(SandboxStarted())
    for _ in range(2 * HISTORY):
        machine.apply(CallBegan())
        machine.apply(CallEnded())
    machine.apply(SandboxLost("oom"))
    with pytest.raises(InvalidTransition, match=r"SandboxStarted.*oom"):
        machine.apply(CallBegan())


def test_a_closed_session_keeps_the_reason_it_was_closed_for() -> None:
    machine = Machine(S.READY, "")
    machine.apply(SandboxLost("oom"))
    assert machine.reason == "oom"
    machine.apply(SandboxStarted())
    assert machine.reason == ""
    machine.apply(CloseAsked("idle"))
    machine.apply(SandboxStopped())
    assert machine.reason == "idle"
