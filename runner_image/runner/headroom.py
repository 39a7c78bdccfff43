"""Room for reading and writing values, whatever limits user code has set for its own interpreter."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# Enough for values of the deepest nesting that is read or written, at a few frames a level.
_RECURSION = 6000
_get_digits: Callable[[], int] | None = getattr(sys, "get_int_max_str_digits", None)
_set_digits: Callable[[int], None] | None = getattr(sys, "set_int_max_str_digits", None)


class Headroom:
    """Within it integers of any size are written and read, and deep values are walked. Limits are put back after."""

    __slots__ = ("_digits", "_recursion")

    def __enter__(self) -> None:
        self._recursion = sys.getrecursionlimit()
        if self._recursion < _RECURSION:
            sys.setrecursionlimit(_RECURSION)
        if _get_digits is not None and _set_digits is not None:
            self._digits = _get_digits()
            _set_digits(0)

    def __exit__(self, *_: object) -> None:
        if _set_digits is not None:
            _set_digits(self._digits)
        if self._recursion < _RECURSION:
            try:
                sys.setrecursionlimit(self._recursion)
            except RecursionError:  # lower than where we stand: user code cannot have worked with it either
                return
