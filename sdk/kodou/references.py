"""What a session keeps for its client: names of objects, and those that nobody needs any more."""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import suppress
from os import getpid
from typing import Any

from kodou.errors import BadReply


class References:
    """The names that one session has to be told to drop. Filled by finalisers, so it takes no lock and does no I/O."""

    def __init__(self) -> None:
        self._unused: deque[str] = deque()
        self._process = getpid()

    def kept(self, value: Any) -> Kept:
        """What a reply to `keep` names; dropped with the next request once nothing here stands for it. Raises BadReply."""
        if not isinstance(value, dict) or not isinstance(value.get("$ref"), str):
            msg = "the server's reply names no kept object"
            raise BadReply(msg)
        return Kept(self, value["$ref"], str(value.get("type")), str(value.get("repr")))

    def unused(self, name: str, process: int) -> None:
        """Nothing here stands for that object any more. `process`: that which kept it; its forks have no say."""
        if process == getpid():
            self._unused.append(name)

    def take(self) -> list[str]:
        """Names to drop with the request that is being made."""
        taken: list[str] = []
        if self._process != getpid():  # what was waiting when this process was forked is its parent's
            self._unused.clear()
            self._process = getpid()
        with suppress(IndexError):  # there are no more; another thread may take some as well
            while True:
                taken.append(self._unused.popleft())
        return taken

    def restore(self, names: list[str]) -> None:
        """That request did not get through."""
        self._unused.extend(names)


class Kept:
    """An object that a session keeps. `type` and `repr` are as they were when it was kept."""

    def __init__(self, references: References, name: str, type: str, repr: str) -> None:
        self.name = name
        self.type = type
        self.repr = repr
        self._references = references
        self._end = weakref.finalize(self, references.unused, name, getpid())
        self._end.atexit = False  # a session that is over has nothing to drop

    def name_in(self, references: References) -> str:
        """Raises ValueError: another session keeps it, or it was dropped."""
        if references is not self._references:
            msg = f"{self.name} ({self.type}) is kept in another session: pass its value, or pipe it there with `|`"
            raise ValueError(msg)
        if not self._end.alive:
            msg = f"{self.name} ({self.type}) was dropped"
            raise ValueError(msg)
        return self.name

    def drop(self) -> None:
        """Have it dropped with the next request. May be called twice."""
        self._end()
