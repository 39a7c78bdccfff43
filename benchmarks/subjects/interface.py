"""What subjects can be asked. A subject is open while it is a context; it has as many of these as it can."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Barrier
from typing import Protocol

FUNCTION = [{"moduleName": "numpy"}, {"name": "array", "args": [[2, 4, 6]]}, {"name": "sum"}]
ANSWER = 12
# The same for an interpreter.
PROGRAM = "import numpy; print(int(numpy.array([2, 4, 6]).sum()), flush=True)"
CALL_BUDGET_S = 1.5  # slow subjects are called as often as there is time for in a round


class Unavailable(Exception):
    """It cannot be measured here; the reason is for the reader of the report."""


@dataclass(frozen=True, slots=True)
class Idle:
    """One idle session: its processes, and those that the engine keeps for it."""

    pids: frozenset[int]
    engine_pids: frozenset[int] = frozenset()


class Subject(AbstractContextManager["Subject"], Protocol):
    name: str


class Called(Subject, Protocol):
    def call(self, count: int) -> list[float]:
        """Seconds of each of `count` warm calls by one client, one after another."""
        ...


class Held(Subject, Protocol):
    def hold(self, count: int) -> AbstractContextManager[list[Idle]]:
        """So many sessions that have answered with numpy once."""
        ...


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def repeated(action: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` times, or of as many as there is time for; of one at least."""
    return list(_repeated(action, count))


def _repeated(action: Callable[[], object], count: int) -> Iterator[float]:
    until = time.perf_counter() + CALL_BUDGET_S
    for done in range(count):
        if done and time.perf_counter() >= until:
            return
        yield timed(action)


def at_once(action: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of so many that begin together. Raises RuntimeError: not all of them went well."""
    gate = Barrier(count)

    def one() -> float:
        gate.wait()
        return timed(action)

    with ThreadPoolExecutor(count) as threads:
        begun = [threads.submit(one) for _ in range(count)]
    if faults := [fault for future in begun if (fault := future.exception())]:
        msg = f"{len(faults)} of {count} at once were not served, such as: {str(faults[0])[:300]}"
        raise RuntimeError(msg)
    return [future.result() for future in begun]


def checked(answer: object) -> None:
    if answer != ANSWER:
        msg = f"answered {answer!r}"
        raise RuntimeError(msg)
