"""Numbers that several processes see."""

from collections.abc import Iterator

import pytest

from orchestrator.workers.counts import Counts


@pytest.fixture
def counts() -> Iterator[Counts]:
    counts = Counts.created(3)
    yield counts
    counts.close()


def test_each_tells_its_own_and_sees_the_total(counts: Counts) -> None:
    other = Counts(counts.descriptor, 3)  # as another process opens it
    assert counts.connections(0, 5) == 5
    assert other.connections(2, 7) == 12
    assert counts.connections(0, 4) == 11
    assert counts.unread_bytes(1, 2**40) == 2**40
    assert other.unread_bytes(0, 1) == 2**40 + 1


def test_who_has_ended_has_none(counts: Counts) -> None:
    counts.connections(1, 9)
    counts.unread_bytes(1, 9)
    counts.clear(1)
    assert counts.connections(0, 1) == 1
    assert counts.unread_bytes(0, 1) == 1
