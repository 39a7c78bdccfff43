"""A burst of the benchmarks: all begin together, and one that fails makes it a failure."""

import threading

import pytest

from benchmarks.subjects.interface import at_once


def test_all_are_under_way_together() -> None:
    together = threading.Barrier(5)
    assert len(at_once(lambda: together.wait(30), 5)) == 5


def test_one_that_fails_is_told() -> None:
    turns = iter(range(5))
    lock = threading.Lock()

    def one() -> None:
        with lock:
            if next(turns) == 3:
                raise ValueError("refused")

    with pytest.raises(RuntimeError, match=r"1 of 5 .* refused"):
        at_once(one, 5)
