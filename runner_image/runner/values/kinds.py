"""Types known by the names of their bases, so that nothing has to be imported to recognise a value."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, TypeVar

    T = TypeVar("T")


def names(kind: type) -> list[tuple[str, str]]:
    """(top-level package, name) of the type and of its bases, nearest first."""
    return [(base.__module__.partition(".")[0], base.__name__) for base in kind.__mro__]


def known(kind: type, table: Mapping[tuple[str, str], T]) -> T | None:
    """What a table has for the type, or for the nearest of its bases."""
    for name in names(kind):
        if name in table:
            return table[name]
    return None
