"""The other end of `subjects/driven.py`: a peer's client in the peer's own environment, asked by lines of JSON.

Standard library only. Times are taken here, so that what asks costs the peer nothing.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

CODE = "import numpy; float(numpy.array([2, 4, 6]).sum())"


class Peer:
    """What a driver does for its peer. `session`: whatever holds one session, actor or kernel."""

    def start(self) -> Any:
        """Make a session that has answered once, with numpy."""
        raise NotImplementedError

    def call(self, session: Any) -> float:
        raise NotImplementedError

    def pid(self, session: Any) -> int:
        """Of the session's outermost process."""
        raise NotImplementedError

    def end(self, session: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End all there is."""


def serve(make: Callable[[], Peer]) -> None:
    """Answer until there is no more to read. What peers print goes where errors go."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = make()
    try:
        driver = _Driver(peer)
        print(json.dumps({"ready": True}), file=answers)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                answer = {"value": getattr(driver, request["do"])(*request["args"])}
            except Exception as exc:  # what a peer raises is its own, and the run goes on without it
                answer = {"error": f"{type(exc).__name__}: {exc}"}
            print(json.dumps(answer), file=answers)
    finally:
        peer.close()


class _Driver:
    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._warm: Any = None
        self._idle: list[Any] = []

    def calls(self, count: int, budget_s: float) -> list[float]:
        """Seconds of each of `count` warm calls, or of as many as there is time for."""
        if self._warm is None:
            self._warm = self._peer.start()
        taken: list[float] = []
        until = time.perf_counter() + budget_s
        while len(taken) < count and time.perf_counter() < until:
            began = time.perf_counter()
            value = self._peer.call(self._warm)
            taken.append(time.perf_counter() - began)
            if value != 12:
                msg = f"answered {value!r}"
                raise ValueError(msg)
        return taken

    def start(self) -> float:
        """Seconds from nothing to the first answer of a new session, which is ended again."""
        began = time.perf_counter()
        session = self._peer.start()
        taken = time.perf_counter() - began
        self._peer.end(session)
        return taken

    def hold(self, count: int) -> list[int]:
        """Process ids of so many new sessions, which stay."""
        self._idle = [self._peer.start() for _ in range(count)]
        return [self._peer.pid(session) for session in self._idle]

    def release(self) -> None:
        for session in self._idle:
            self._peer.end(session)
        self._idle = []
