"""Imports in process 1, before a worker is forked: each worker then has them from its first moment on.

A module is imported here only if a session cannot tell. So each is tried in a child first, and left to the worker that asks
for it if its import fails, ends the process, or leaves something that a fork does not take along or that the worker sets
anew: threads, processes, signal handlers, streams. What is printed meanwhile goes nowhere.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from .children import descendants, kill_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

# Libraries that would start threads at their import for each processor do with one while these say so.
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
# How often a set is tried anew without what was found unfit.
_MOST_TRIALS = 8
_LOOK_MS = 20
_READ_BYTES = 65536


def preload(distributions: Iterable[str], leave: Callable[[], None]) -> None:
    """Import what these distributions offer at their top level, as far as it is fit.

    Args:  leave: called in a fresh child, which is no worker.
    """
    sys.modules["__main__"] = type(sys)("__main__")  # as in the worker, which keeps this one
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    streams = _silenced()
    try:
        for name in _fit(list(distributions), leave):
            __import__(name)
    finally:
        _heard(streams)
        for name, value in before.items():
            if os.environ.get(name) != "1":
                continue  # what an import has set is to be found
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    if _threads() > 1:
        msg = "an import did here what it did not do in its trial"
        raise SystemExit(msg)
    import gc

    gc.collect()
    gc.freeze()  # what is never collected stays shared with the workers


def resident_bytes() -> int:
    """Memory that this process takes."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib is large
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def reseed() -> None:
    """In a fresh worker: random numbers of its own. (`random` sees to itself after a fork.)"""
    numbers = sys.modules.get("numpy.random")
    if numbers is not None:
        try:
            numbers.seed()
        except BaseException:  # it only bears that name
            return


def _fit(distributions: list[str], leave: Callable[[], None]) -> list[str]:
    """The modules that can be imported one after another without a trace."""
    from functools import partial

    unfit: set[str] = set()
    for _ in range(_MOST_TRIALS):
        told = _in_child(partial(_trial, distributions, unfit), leave)
        modules = [line[1:] for line in told if line.startswith("+")]
        begun = {line[1:] for line in told if line.startswith("?")}
        if begun.issubset(modules):
            return modules
        unfit |= begun.difference(modules)
    return []


def _in_child(work: Callable[[], Iterable[str]], leave: Callable[[], None]) -> list[str]:
    """What `work` tells, line by line, in a fork of this process. Nothing that it started is left."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            leave()
            for line in work():
                os.write(writing, line.encode() + b"\n")
        finally:
            os._exit(0)
    os.close(writing)
    told = bytearray()
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    # To the child's end, not to the pipe's: what the child started may hold that open.
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if any(event & select.POLLIN for _, event in poll.poll(_LOOK_MS)):
            told += os.read(reading, _READ_BYTES)
    kill_all()
    with open(reading, "rb") as pipe:  # noqa: PTH123
        told += pipe.read()
    return told.decode("utf-8", "replace").split("\n")[:-1]


def _trial(distributions: list[str], unfit: set[str]) -> Iterable[str]:
    """Tells "?name" before an import, which may end the process, and "+name" after it; stops at one that is not fit."""
    for name in _modules(distributions):
        if name in unfit:
            continue
        yield "?" + name
        before = _traces()
        try:
            __import__(name)
        except BaseException:
            return
        if _threads() > 1 or _traces() != before:
            return
        yield "+" + name


def _traces() -> list[Any]:
    """What a fork or the worker's begin would undo."""
    handlers = [signal.getsignal(number) for number in sorted(signal.valid_signals())]
    # (Of the parent: what left its session and its own parent is the parent's.)
    return [handlers, sys.stdin, sys.stdout, sys.stderr, sorted(descendants(os.getppid()))]


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - pathlib is large


def _silenced() -> list[int]:
    """Let what is printed go nowhere. Returns where it went."""
    from io import FileIO, TextIOWrapper

    for number, name in ((1, "stdout"), (2, "stderr")):
        # Without a buffer: who keeps one of these holds nothing back in the worker.
        raw = FileIO(number, "w", closefd=False)
        setattr(sys, name, TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True))
    kept = [os.dup(number) for number in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(null, number)
    os.close(null)
    return kept


def _heard(streams: list[int]) -> None:
    for number, kept in enumerate(streams, 1):
        os.dup2(kept, number)
        os.close(kept)


def _modules(distributions: list[str]) -> list[str]:
    """Top-level modules of distributions, in their order. (Only in a child: what it takes to find them is large.)"""
    from importlib.metadata import PackageNotFoundError, distribution

    found: dict[str, None] = {}
    for name in distributions:
        try:
            files = distribution(name).files or ()
        except PackageNotFoundError:
            continue
        for path in files:
            top, _, rest = str(path).partition("/")
            stem, _, ending = top.partition(".")
            single = not rest and (ending == "py" or ending.endswith("so"))
            if (single or rest == "__init__.py") and stem.isidentifier() and not stem.startswith("_"):
                found[stem] = None
    return list(found)
