"""What a session keeps: objects that stay in the worker, and the names that stand for them."""

from __future__ import annotations

import os
import re

from ..describe import bounded_repr, type_name
from ..refusal import ReferenceNotFound, ReferenceTooLarge, TooManyReferences
from .sizes import estimate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Collection

NAME = re.compile("r[0-9a-f]*-?[0-9]+")


class References:
    """Named objects, bounded in number and memory. What an object takes is measured when it is kept."""

    def __init__(self, *, max_references: int, max_bytes: int, first: bool) -> None:
        """`first`: no worker of this session kept anything before this one."""
        self._max_references = max_references
        self._max_bytes = max_bytes
        # A name never means another object, also where an earlier worker gave some.
        self._prefix = "r" if first else f"r{os.urandom(4).hex()}-"
        self._count = 0
        self._kept: dict[str, tuple[Any, int]] = {}

    def get(self, name: str, field: str) -> Any:
        """The object of that name. Raises ReferenceNotFound: it was dropped, or its worker ended, or it never was."""
        if name not in self._kept:
            msg = f"the session keeps nothing called {name[:100]!r}"
            raise ReferenceNotFound(msg, field)
        return self._kept[name][0]

    def check_room(self, dropped: Collection[str]) -> None:
        """Raises TooManyReferences: there is no place for one more, even after those were dropped."""
        if len(self._kept) - len(set(dropped)) >= self._max_references:
            msg = f"the session keeps {self._max_references} objects already, and may keep no more: drop some"
            raise TooManyReferences(msg, "keep")

    def keep(self, value: Any) -> dict[str, Any]:
        """Keep an object. Returns what stands for it in a reply. Raises ReferenceTooLarge."""
        size = estimate(value)
        taken = sum(size for _, size in self._kept.values())
        if taken + size > self._max_bytes:
            msg = f"the object takes {size} bytes; the session keeps {taken} of at most {self._max_bytes}"
            raise ReferenceTooLarge(msg, type=type_name(type(value)))
        self._count += 1
        name = f"{self._prefix}{self._count}"
        self._kept[name] = value, size
        return _shown(name, value)

    def drop(self, names: Collection[str]) -> None:
        """Keep them no longer. A name that stands for nothing is left alone."""
        for name in names:
            self._kept.pop(name, None)

    def listed(self) -> list[dict[str, Any]]:
        """What is kept, oldest first; `bytes` as it was measured."""
        return [{**_shown(name, value), "bytes": size} for name, (value, size) in self._kept.items()]


def _shown(name: str, value: Any) -> dict[str, Any]:
    return {"$ref": name, "type": type_name(type(value)), "repr": bounded_repr(value)}
