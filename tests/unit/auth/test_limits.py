"""So many a second, so many at once: on a clock that only the test moves."""

from itertools import count

import pytest

from orchestrator.auth import limits
from orchestrator.auth.limits import Gate
from orchestrator.errors import RateLimited, Unavailable


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(limits, "monotonic", lambda: now[0])
    return now


def admitted(gate: Gate, holder: str = "ada") -> int:
    """How many are let in now, one after the other."""
    for number in count():
        try:
            with gate.place(holder):
                pass
        except RateLimited:
            return number
    raise AssertionError


def test_after_a_rest_a_burst_and_then_so_many_a_second(clock: list[float]) -> None:
    gate = Gate("calls", per_s=10, burst=5)
    assert admitted(gate) == 5
    clock[0] += 0.25
    assert admitted(gate) == 2
    clock[0] += 3600
    assert admitted(gate) == 5


def test_a_refusal_says_when_the_next_one_is_let_in(clock: list[float]) -> None:
    gate = Gate("calls", per_s=0.5, burst=1)
    assert admitted(gate) == 1
    with pytest.raises(RateLimited) as refused:
        gate.enter("ada")
    assert refused.value.after_s == pytest.approx(2)
    clock[0] += refused.value.after_s
    assert admitted(gate) == 1


def test_refusals_cost_nothing_further(clock: list[float]) -> None:
    gate = Gate("calls", per_s=1, burst=1)
    admitted(gate)
    for _ in range(1000):
        assert admitted(gate) == 0
    clock[0] += 1
    assert admitted(gate) == 1


def test_one_holder_s_crowd_is_nothing_to_another(clock: list[float]) -> None:
    gate = Gate("calls", per_s=1, burst=3, each=2, total=10)
    gate.enter("ada")
    gate.enter("ada")
    with pytest.raises(RateLimited, match="under way"):
        gate.enter("ada")
    gate.enter("bob")
    gate.leave("ada")
    gate.enter("ada")


def test_all_holders_together_have_so_many_places(clock: list[float]) -> None:
    gate = Gate("calls", per_s=100, burst=100, each=2, total=3)
    for holder in ("ada", "ada", "bob"):
        gate.enter(holder)
    with pytest.raises(Unavailable):
        gate.enter("bob")
    gate.leave("ada")
    gate.enter("bob")
    assert gate.running == 3


def test_a_place_is_given_back_whatever_happens_in_it(clock: list[float]) -> None:
    gate = Gate("calls", per_s=100, burst=100, each=1)
    with pytest.raises(ZeroDivisionError), gate.place("ada"):
        raise ZeroDivisionError
    gate.enter("ada")


def test_to_check_is_not_to_count(clock: list[float]) -> None:
    gate = Gate("refused credentials", per_s=1, burst=2)
    for _ in range(10):
        gate.check("127.0.0.1")
    gate.count("127.0.0.1")
    gate.count("127.0.0.1")
    with pytest.raises(RateLimited):
        gate.check("127.0.0.1")
    gate.check("127.0.0.2")


def test_what_would_be_refused_is_told_without_taking_anything(clock: list[float]) -> None:
    gate = Gate("calls", per_s=1, burst=3, each=2, total=2)
    assert not gate.refusing()
    for _ in range(10):
        assert gate.refusal("ada") is None
    gate.enter("ada")
    gate.enter("ada")
    assert isinstance(gate.refusal("ada"), RateLimited)
    assert isinstance(gate.refusal("bob"), Unavailable)
    gate.leave("ada")
    assert gate.refusal("ada") is None
    gate.enter("ada")
    gate.leave("ada")
    refusal = gate.refusal("ada")
    assert isinstance(refusal, RateLimited)
    clock[0] += refusal.after_s
    assert gate.refusal("ada") is None
    gate.enter("ada")


def test_who_refused_a_moment_ago_is_refusing(clock: list[float]) -> None:
    gate = Gate("calls", per_s=1000, burst=1000, each=1)
    gate.enter("ada")
    assert not gate.refusing()
    with pytest.raises(RateLimited):
        gate.enter("ada")
    assert gate.refusing()
    clock[0] += 0.9 * limits.REFUSING_S
    assert gate.refusing()
    assert gate.refusal("ada") is not None
    clock[0] += 0.9 * limits.REFUSING_S
    assert gate.refusing()  # that was a refusal too
    clock[0] += 0.2 * limits.REFUSING_S
    assert not gate.refusing()


def test_holders_at_rest_are_forgotten_and_the_busy_are_not(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REMEMBERED", 100)
    gate = Gate("refused credentials", per_s=1, burst=1)
    gate.enter("stays")
    for number in range(10_000):
        gate.count(str(number))
        clock[0] += 1.1
    assert len(gate) <= 101
    gate.leave("stays")
    assert gate.running == 0
