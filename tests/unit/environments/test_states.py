from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import pytest

from orchestrator.environments.states import TRANSITIONS, moved
from orchestrator.errors import InvalidTransition
from orchestrator.records import Environment, EnvironmentState

THEN, NOW = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)
ONE = Environment(
    id="py3.12-0",
    language="python",
    version="3.12.4",
    packages={},
    lock="",
    backend="fake",
    image_ref=None,
    size_bytes=0,
    state=EnvironmentState.PLANNED,
    reason="",
    since=THEN,
    created_at=THEN,
    last_used_at=THEN,
)
ALLOWED = {
    ("planned", "building"),
    ("planned", "failed"),
    ("building", "building"),
    ("building", "ready"),
    ("building", "failed"),
    ("ready", "pruned"),
    ("ready", "building"),
    ("failed", "building"),
    ("pruned", "building"),
}


@pytest.mark.parametrize(("before", "after"), list(product(EnvironmentState, EnvironmentState)))
def test_an_environment_moves_along_the_table_only(before: EnvironmentState, after: EnvironmentState) -> None:
    environment = replace(ONE, state=before)
    if (before, after) in ALLOWED:
        result = moved(environment, after, reason="why", now=NOW)
        assert result == replace(environment, state=after, reason="why", since=NOW)
    else:
        with pytest.raises(InvalidTransition, match=ONE.id):
            moved(environment, after, reason="why", now=NOW)


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(EnvironmentState)
