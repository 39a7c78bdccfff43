"""The steps of a build as one line on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
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


def bar() -> Callable[[Progress], object] | None:
    """Shows each step on standard error, over the one before; None where that is no terminal."""
    stream: Any = sys.stderr
    if stream is None or not stream.isatty():
        return None

    def show(step: Progress) -> None:
        stream.write("\r\x1b[K" if step.phase == "ready" else f"\r\x1b[K{line(step)[:_WIDTH]}")
        stream.flush()

    return show


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
