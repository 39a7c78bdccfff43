"""What a function returned, brought to its end: coroutines awaited, iterators drained."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from itertools import islice

from .refusal import TooManyItems

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from typing import Any

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
    elif isinstance(value, AsyncIterator):
        items = awaited(_take(value, max_items + 1))
    else:
        return value
    if len(items) > max_items:
        msg = f"the iterator yields more than {max_items} items"
        raise TooManyItems(msg)
    return items


async def _take(iterator: AsyncIterator[Any], most: int) -> list[Any]:
    items: list[Any] = []
    async for item in iterator:
        items.append(item)
        if len(items) == most:
            break
    return items
