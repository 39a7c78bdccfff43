"""Events of several calls at a time, which one reader takes."""

import json
from functools import partial

import pytest

from orchestrator.sandboxes.events import Event, Events, EventsOfPart, with_members

pytestmark = pytest.mark.anyio

LARGE = Event("output", json.dumps({"stdout": "x" * 200_000}).encode())


@pytest.mark.parametrize("body", [b"{}", b"{ }", b' \n{"a": 1}', '{"ü": {}}'.encode()])
@pytest.mark.parametrize("members", [{}, {"pipe": 1}, {"pipe": 1, "stage": 0}])
def test_members_are_put_in_front(body: bytes, members: dict[str, int]) -> None:
    put = with_members(body, members)
    assert json.loads(put) == {**members, **json.loads(body)}


async def test_each_part_that_waits_for_room_goes_on() -> None:
    whole = Events()
    parts = [EventsOfPart(whole, {"pipe": number}) for number in range(3)]
    gone_on: list[int] = []
    parts[0].tell(LARGE)
    for number, part in enumerate(parts):
        assert not part.tell(LARGE)
        part.when_room(partial(gone_on.append, number))
    parts[1].end()
    assert gone_on == [1]
    whole.end()
    assert gone_on == [1, 0, 2]
    assert [json.loads(event.body)["pipe"] async for told in whole for event in told] == [0, 0, 1, 2]


async def test_the_end_of_a_part_is_not_that_of_the_whole() -> None:
    whole = Events()
    first, second = EventsOfPart(whole, {}), EventsOfPart(whole, {"stage": 1})
    first.tell(Event("output", b"{}"))
    first.end()
    second.tell(Event("item", b"{}"))
    whole.end()
    assert [event async for told in whole for event in told] == [
        Event("output", b"{}"),
        Event("item", b'{"stage":1}'),
    ]
