"""Who waits for whom."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.turns import Turns

pytestmark = pytest.mark.anyio


async def started(turns: Turns, owner: str, done: list[str]) -> asyncio.Task[None]:
    async def work() -> None:
        async with turns.turn(owner):
            done.append(owner)
            await asyncio.sleep(0)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    return task


async def test_a_crowd_of_one_owner_keeps_another_waiting_for_one_turn_only() -> None:
    turns, done = Turns(1), list[str]()
    await turns.acquire("ada")
    tasks = [await started(turns, owner, done) for owner in ("ada", "ada", "ada", "bob", "ada", "eve")]
    turns.release()
    await asyncio.gather(*tasks)
    assert done == ["ada", "bob", "eve", "ada", "ada", "ada"]


async def test_so_many_at_once_and_no_more() -> None:
    turns = Turns(2)
    running, most = 0, 0

    async def work(owner: str) -> None:
        nonlocal running, most
        async with turns.turn(owner):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(work(str(number % 3)) for number in range(20)))
    assert (most, running) == (2, 0)


async def test_who_leaves_the_queue_or_fails_keeps_no_turn() -> None:
    turns, done = Turns(1), list[str]()
    await turns.acquire("ada")
    waiting, next_ = await started(turns, "ada", done), await started(turns, "bob", done)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    turns.release()
    next_.cancel()  # its turn has come, and it does not know yet
    await asyncio.gather(next_, return_exceptions=True)
    with pytest.raises(ZeroDivisionError):
        async with turns.turn("eve"):
            raise ZeroDivisionError
    async with asyncio.timeout(60):
        await turns.acquire("ada")
    assert done == []


async def test_who_takes_spare_turns_only_waits_for_all_others() -> None:
    turns, done = Turns(1), list[str]()
    await turns.acquire("ada")

    async def spare() -> None:
        await turns.acquire_spare()
        done.append("spare")
        turns.release()

    left, kept = asyncio.create_task(spare()), asyncio.create_task(spare())
    await asyncio.sleep(0)
    tasks = [await started(turns, owner, done) for owner in ("ada", "bob")]
    left.cancel()
    turns.release()
    await asyncio.gather(kept, *tasks)
    assert done == ["ada", "bob", "spare"]
    await turns.acquire_spare()  # at once, where there is one


@given(st.integers(1, 4), st.lists(st.sampled_from("abcd"), max_size=40))
async def test_while_two_owners_wait_neither_gets_more_than_one_turn_ahead(at_once: int, owners: list[str]) -> None:
    turns, done = Turns(at_once), list[tuple[str, int]]()
    for _ in range(at_once):
        await turns.acquire("first")

    async def work(owner: str, number: int) -> None:
        await turns.acquire(owner)
        done.append((owner, number))

    tasks = [asyncio.create_task(work(owner, number)) for number, owner in enumerate(owners)]
    await asyncio.sleep(0)
    for count in range(len(owners)):
        turns.release()
        await asyncio.sleep(0)
        assert len(done) == count + 1
        had = Counter(owner for owner, _ in done)
        waiting = [had[owner] for owner in set(owners) if had[owner] < owners.count(owner)]
        assert not waiting or max(had.values()) <= min(waiting) + 1
    await asyncio.gather(*tasks)
    for owner in set(owners):  # each one's own in the order of their coming
        assert [number for each, number in done if each == owner] == sorted(
            number for number, each in enumerate(owners) if each == owner
        )
