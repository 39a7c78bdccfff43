import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
from runner.evaluation.results import awaited, drained
from runner.refusal import TooManyItems


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


async def later(n: int) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


def test_iterators_are_drained_up_to_the_bound() -> None:
    assert drained(numbers(3), 3) == [0, 1, 2]
    assert drained(map(str, [1, 2]), 3) == ["1", "2"]
    assert drained(later(3), 3) == [0, 1, 2]


def test_what_is_no_iterator_stays_as_it_is() -> None:
    for value in ([1], (1,), range(3), "abc", {1: 2}.keys(), None):
        assert drained(value, 1) is value


@pytest.mark.parametrize("endless", [count(), later(10**9), numbers(4)])
def test_more_items_than_the_bound_are_an_error(endless: object) -> None:
    with pytest.raises(TooManyItems) as caught:
        drained(endless, 3)
    assert caught.value.members["code"] == "too_many_items"


def test_coroutines_of_a_session_share_a_loop() -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    first = awaited(loop())
    assert awaited(loop()) is first
    first.close()
    second = awaited(loop())
    assert second is not first
    second.close()


def test_what_a_coroutine_raises_is_raised() -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        awaited(leave())
