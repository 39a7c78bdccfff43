"""What is told of refused destinations: so much that an operator sees it, so little that no sandbox fills the log."""

import time
from collections.abc import Callable

EVERY_S = 1.0


class Refusals:
    """`tell` hears of one refusal a second and sandbox, and of how many more there were before it."""

    def __init__(
        self, tell: Callable[[str, str, int, str, int], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._last: dict[str, tuple[float, int]] = {}  # sandbox -> when it was told of, and how many were not since

    def note(self, sandbox_id: str, host: str, port: int, reason: str) -> None:
        at, untold = self._last.get(sandbox_id, (-EVERY_S, 0))
        now = self._clock()
        if now - at < EVERY_S:
            self._last[sandbox_id] = (at, untold + 1)
            return
        self._last[sandbox_id] = (now, 0)
        self._tell(sandbox_id, host, port, reason, untold)

    def forget(self, sandbox_id: str) -> None:
        self._last.pop(sandbox_id, None)
