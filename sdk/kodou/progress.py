"""The steps of a build as one line on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kodou.messages import Progress

_PHASES = {
    "resolve": "resolving",
    "fetch": "fetching",
    "install": "installing",
    "compile": "compiling",
    "commit": "writing the image",
    "ready": "starting",
}
_BAR = 20  # characters
_WIDTH = 78


class Bar:
    """Shows each step on a terminal, over the one before."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __call__(self, step: Progress) -> None:
        self._write("" if step.phase == "ready" else line(step)[:_WIDTH])

    def clear(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}")
        self._stream.flush()


def bar() -> Bar | None:
    """On standard error; None where that is no terminal."""
    stream: Any = sys.stderr
    return None if stream is None or not stream.isatty() else Bar(stream)


@contextmanager
def following(progress: Callable[[Progress], object] | None) -> Iterator[Callable[[Progress], object] | None]:
    """What is called with each step: `progress`, or else a bar, which is cleared at the end, whatever that is."""
    own = None if progress else bar()
    try:
        yield progress or own
    finally:
        if own is not None:
            own.clear()


def line(step: Progress) -> str:
    """One step in words, its package's bytes as a bar."""
    told = _PHASES.get(step.phase, step.phase)
    if step.package is not None:
        told += f" {step.package}"
    elif step.line:
        told += f": {step.line}"
    if step.bytes is not None and step.total:
        done = min(1.0, step.bytes / step.total)
        told += f" [{'#' * round(done * _BAR):{_BAR}}] {step.bytes / 1e6:.1f}/{step.total / 1e6:.1f} MB"
    return "".join(char for char in told if char.isprintable())
