"""What a running call tells before its reply: pieces of output, items of a generator."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import msgspec

# Told and not yet taken: past this the runner is not read from, so that what it prints waits in the sandbox.
_MOST_BYTES = 256 * 1024
# Of an event besides its body: many small ones take more than they hold.
_EVENT_BYTES = 200


@dataclass(frozen=True, slots=True)
class Event:
    """`body` is a JSON object on one line, checked, and passed on as it came."""

    name: str  # "output" | "item"
    body: bytes


def with_members(body: bytes, members: Mapping[str, object]) -> bytes:
    """A JSON object that was checked to be one, with further members in front of its own."""
    if not members:
        return body
    _, _, rest = body.partition(b"{")
    comma = b"" if rest.lstrip().startswith(b"}") else b","
    return msgspec.json.encode(members)[:-1] + comma + rest


class Events:
    """The events of one call, in their order: told by the channel, taken by whoever made the call."""

    def __init__(self) -> None:
        self._told: list[Event] = []
        self._bytes = 0
        self._ended = False
        self._news = asyncio.Event()
        self._waiting: list[Callable[[], None]] = []  # for room

    def tell(self, event: Event) -> bool:
        """Add one. False: there is enough for now; `when_room` says when to go on."""
        if self._ended:
            return True  # nobody listens
        self._told.append(event)
        self._bytes += len(event.body) + _EVENT_BYTES
        self._news.set()
        return self._bytes < _MOST_BYTES

    def when_room(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when there is room again."""
        self._waiting.append(callback)

    def end(self) -> None:
        """Nothing more is told, or nobody listens any more. May be called twice."""
        self._ended = True
        self._news.set()
        self._make_room()

    async def __aiter__(self) -> AsyncIterator[list[Event]]:
        """What was told since the last time: one event, or many where they come faster than they are taken."""
        while True:
            if self._told:
                told, self._told, self._bytes = self._told, [], 0
                self._make_room()
                yield told
            elif self._ended:
                return
            else:
                self._news.clear()
                await self._news.wait()

    def _make_room(self) -> None:
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


class EventsOfPart(Events):
    """Those of one of several calls, each told to the `whole` with the part's place."""

    def __init__(self, whole: Events, place: Mapping[str, int]) -> None:
        super().__init__()
        self._whole = whole
        self._place = place

    def tell(self, event: Event) -> bool:
        return self._whole.tell(Event(event.name, with_members(event.body, self._place)))

    def when_room(self, callback: Callable[[], None]) -> None:
        super().when_room(callback)
        self._whole.when_room(self._make_room)

    def end(self) -> None:
        """The whole goes on, without this one, whose runner is not kept waiting any more."""
        self._make_room()
