"""No two sandboxes hold one user id."""

import pytest

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes.uids import Uids


def test_an_id_follows_from_the_sandboxs_own() -> None:
    assert Uids(1000, 100).take(f"{205:032x}") == 1005


def test_one_that_is_taken_is_not_given_again() -> None:
    uids = Uids(1000, 3)
    assert sorted(uids.take(f"{sandbox:032x}") for sandbox in (2, 5, 8)) == [1000, 1001, 1002]


def test_when_all_are_taken_it_says_so_and_one_released_is_free_again() -> None:
    uids = Uids(1000, 1)
    uids.take("0" * 32)
    with pytest.raises(EngineUnavailable):
        uids.take("1" * 32)
    uids.release("0" * 32)
    uids.release("0" * 32)
    assert uids.take("1" * 32) == 1000


def test_what_a_sandbox_from_before_holds_is_not_given_away() -> None:
    uids = Uids(1000, 10)
    uids.hold("a" * 32, 1004)
    assert uids.take(f"{4:032x}") == 1005


def test_holding_twice_is_holding_once() -> None:
    uids = Uids(1000, 2)
    uids.hold("a" * 32, 1000)
    uids.hold("a" * 32, 1000)
    uids.release("a" * 32)
    assert {uids.take("b" * 32), uids.take("c" * 32)} == {1000, 1001}
