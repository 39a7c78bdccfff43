"""What a function returned, brought to its end: coroutines awaited, iterators drained."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from itertools import islice

from ..refusal import TooManyItems

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from typing import Any, Callable, Iterable

# What needs no look at its abstract types.
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set})

_loop: AbstractEventLoop | None = None


def awaited(value: Any) -> Any:
    """What a coroutine comes to; anything else as it is.

    One event loop serves all calls of a session: connections that a library keeps are bound to the loop they began on.
    """
    if type(value) in _PLAIN or not isinstance(value, Coroutine):
        return value
    global _loop
    if _loop is None or _loop.is_closed():
        import asyncio

        _loop = asyncio.new_event_loop()
    result, exc = _loop.run_until_complete(_outcome(value))
    if exc is not None:
        raise exc
    return result


async def _outcome(coroutine: Coroutine[Any, Any, Any]) -> tuple[Any, BaseException | None]:
    """Result or exception, so that no frame of the event loop stands in the user's traceback, nor stops it."""
    try:
        return await coroutine, None
    except BaseException as exc:  # raised again by `awaited`
        return None, exc


def drained(value: Any, max_items: int) -> Any:
    """A list of what an iterator or asynchronous iterator yields; anything else as it is. Raises TooManyItems."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Iterator):
        items = list(islice(value, max_items + 1))
        if len(items) > max_items:
            raise _too_many(max_items)
        return items
    return drained_of_asynchronous(value, max_items)


def drained_of_asynchronous(value: Any, max_items: int) -> Any:
    """A list of what an asynchronous iterator yields; anything else as it is. Raises TooManyItems."""
    if not isinstance(value, AsyncIterator):
        return value
    items = awaited(_take(value, max_items + 1))
    if len(items) > max_items:
        raise _too_many(max_items)
    return items


def bounded(values: Iterable[Any], max_items: int) -> Iterable[Any]:
    """The same items. Of an iterator, raises TooManyItems where more would come."""
    return _bounded(values, max_items) if isinstance(values, Iterator) else values


def _bounded(values: Iterator[Any], max_items: int) -> Iterator[Any]:
    yield from islice(values, max_items)
    for _ in values:
        raise _too_many(max_items)


def _too_many(max_items: int) -> TooManyItems:
    return TooManyItems(f"the iterator yields more than {max_items} items")


def told(value: Any, tell: Callable[[int, Any], None]) -> int | None:
    """Tell the items of an iterator or asynchronous iterator one by one, as they come, and count them. None: it is neither."""
    if type(value) in _PLAIN:
        return None
    if isinstance(value, Iterator):
        index = -1
        for index, item in enumerate(value):
            tell(index, item)
        return index + 1
    if isinstance(value, AsyncIterator):
        return int(awaited(_told(value, tell)))
    return None


async def _told(iterator: AsyncIterator[Any], tell: Callable[[int, Any], None]) -> int:
    count = 0
    async for item in iterator:
        tell(count, item)
        count += 1
    return count


async def _take(iterator: AsyncIterator[Any], most: int) -> list[Any]:
    items: list[Any] = []
    async for item in iterator:
        items.append(item)
        if len(items) == most:
            break
    return items
