"""Where in a composition a worker is, in memory that its supervisor shares: it is told when the worker can tell no more."""

from __future__ import annotations

from mmap import mmap

# Of two 64-bit words, each one more than the number: 0 is nowhere.
_STAGE, _ITEM = 0, 1
_BYTES = 16


class Place:
    """A stage and an item, counted from 0. Who forks shares it with the fork: what that wrote last outlives it."""

    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words = memoryview(mmap(-1, _BYTES)).cast("q")

    def at_stage(self, number: int) -> None:
        self._words[_STAGE] = number + 1

    def at_item(self, number: int) -> None:
        self._words[_ITEM] = number + 1

    def past_items(self) -> None:
        self._words[_ITEM] = 0

    def take(self) -> dict[str, int]:
        """As members of a reply; nowhere from then on."""
        stage, item = self._words
        self._words[_STAGE] = self._words[_ITEM] = 0
        members = {} if not stage else {"stage": stage - 1}
        return members if not item else {**members, "item": item - 1}
