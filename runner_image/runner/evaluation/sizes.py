"""What an object takes of memory: an estimate, in bounded time, whatever the object's own methods do."""

from __future__ import annotations

import sys
from itertools import chain, islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable

# Objects that are looked at; of what is larger, the rest counts as nothing but its place in its container.
_MOST_OBJECTS = 100_000
# Not the object's own, though it refers to them.
_SHARED = (type, type(sys), type(len), type(lambda: None))
_COLLECTIONS: tuple[type[Any], ...] = (list, tuple, set, frozenset)


def estimate(value: Any) -> int:
    """Bytes: what arrays and frames say of themselves; of other objects they themselves, and all that they hold."""
    total = 0
    seen: dict[int, Any] = {}
    pending = [value]
    while pending and len(seen) < _MOST_OBJECTS:
        item = pending.pop()
        if id(item) in seen or isinstance(item, _SHARED):
            continue
        seen[id(item)] = item
        size, held = _measured(item)
        total += size
        pending += islice(held, _MOST_OBJECTS)
    return total


def _measured(value: Any) -> tuple[int, Iterable[Any]]:
    """The object's own size, and what it holds."""
    try:
        declared = _declared(type(value), value)
        if declared is not None:
            return max(int(declared), 0), ()
        return max(sys.getsizeof(value, 0), 0), _held(value)
    except BaseException:  # methods of the user's
        return object.__sizeof__(value), ()


def _declared(kind: type, value: Any) -> Any:
    """What numpy and its like, pandas and polars say. Asked of the type first: no `__getattr__` is called."""
    if hasattr(kind, "nbytes"):
        return value.nbytes
    if hasattr(kind, "memory_usage"):
        return value.memory_usage().sum()
    if hasattr(kind, "estimated_size"):
        return value.estimated_size()
    return None


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return chain(dict.keys(value), dict.values(value))
    for collection in _COLLECTIONS:
        if isinstance(value, collection):
            items: Iterable[Any] = collection.__iter__(value)
            return items
    try:
        return (object.__getattribute__(value, "__dict__"),)
    except AttributeError:
        return ()
