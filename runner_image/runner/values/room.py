"""Room: a bound on the bytes of a value, held to before memory is spent on them."""

from __future__ import annotations

from ..refusal import ReplyTooLarge


class Room:
    __slots__ = ("_left", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._left = max_bytes

    def check(self, count: int) -> None:
        """Raises ReplyTooLarge: there are fewer than `count` bytes left."""
        if count > self._left:
            msg = f"the value takes more than {self.max_bytes} bytes"
            raise ReplyTooLarge(msg)

    def spend(self, count: int) -> None:
        """Take account of `count` bytes that the reply will hold at least. Raises ReplyTooLarge."""
        self._left -= count
        if self._left < 0:
            self.check(0)
