"""When a request that was turned away is sent once more."""

from __future__ import annotations

import random
from collections.abc import Callable

from kodou.messages import Request, Response
from kodou.protocol import problem, seconds

RETRIES = 3
# A server that asks for a longer pause than this has its answer handed on.
MAX_PAUSE_S = 30.0
# Those who were turned away together come back spread over as long again as the pause, and over this at least.
LEAST_SPREAD_S = 1.0
# With these the server had not begun to run anything. (A lost sandbox may have.)
_NEVER_RAN = frozenset(
    {
        "rate_limited",
        "engine_unavailable",
        "store_busy",
        "spool_full",
        "not_ready",
        "shutting_down",
        "too_many_connections",
    }
)


class Retries:
    """The tries of one request.

    Args:    count: how many more there may be after the first. chance: gives numbers from 0 to 1, for the spread.
    """

    def __init__(self, count: int, chance: Callable[[], float] = random.random) -> None:
        self._left = count
        self._chance = chance

    def pause_s(self, request: Request, response: Response) -> float | None:
        """Seconds after which to send it again; None: this is the answer."""
        if response.status not in (429, 503) or not self._left:
            return None
        pause = seconds(response.headers.get("retry-after", ""))
        if pause is None or not 0 <= pause <= MAX_PAUSE_S:
            return None
        if not request.repeatable and _code(response) not in _NEVER_RAN:
            return None
        self._left -= 1
        return pause + max(pause, LEAST_SPREAD_S) * self._chance()


def _code(response: Response) -> str:
    found = problem(response)
    return found.code if found is not None else ""
