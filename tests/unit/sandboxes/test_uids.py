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


def test_a_block_begins_at_a_multiple_of_its_size_and_overlaps_nothing() -> None:
    uids = Uids(1010, 150)  # of blocks of 64: 1024 and 1088; the next would end past the last id
    alone = uids.take(f"{80:032x}")
    assert alone == 1090
    assert uids.take("0" * 32, 64) == 1024
    with pytest.raises(EngineUnavailable):
        uids.take("1" * 32, 64)
    uids.release(f"{80:032x}")
    assert uids.take("1" * 32, 64) == 1088
    uids.release("0" * 32)
    assert uids.take("2" * 32, 64) == 1024
