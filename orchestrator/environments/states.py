"""States of an environment: planned -> building -> ready | failed; ready -> pruned. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from orchestrator.errors import InvalidTransition
from orchestrator.records import Environment, EnvironmentState

_S = EnvironmentState

TRANSITIONS: Mapping[EnvironmentState, frozenset[EnvironmentState]] = {
    _S.PLANNED: frozenset({_S.BUILDING, _S.FAILED}),
    # Whoever holds the environment's lock and finds it building knows that its builder is dead.
    _S.BUILDING: frozenset({_S.READY, _S.FAILED, _S.BUILDING}),
    _S.READY: frozenset({_S.PRUNED, _S.BUILDING}),  # building again: its image was removed by hand
    _S.FAILED: frozenset({_S.BUILDING}),
    _S.PRUNED: frozenset({_S.BUILDING}),
}


def moved(environment: Environment, state: EnvironmentState, *, reason: str, now: datetime) -> Environment:
    """The record in its new state. Raises `InvalidTransition`."""
    if state not in TRANSITIONS[environment.state]:
        msg = f"environment {environment.id}: {environment.state} (since {environment.since}) cannot become {state}"
        raise InvalidTransition(msg)
    return replace(environment, state=state, reason=reason, since=now)
