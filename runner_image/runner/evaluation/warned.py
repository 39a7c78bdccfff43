"""Warnings whose place is a line of ours, since it called what warned: shown without that line."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_adapted = False
# Where `warnings.formatwarning` is from, unless the user has set another.
_STANDARD = ("warnings", "_py_warnings")


def adapt() -> None:
    """Once `warnings` is imported, have it leave out our lines; hooks of the user's stay as they are."""
    global _adapted
    warnings = None if _adapted else sys.modules.get("warnings")
    if warnings is None:
        return
    _adapted = True
    standard = warnings.formatwarning
    if getattr(standard, "__module__", None) not in _STANDARD:
        return
    from .namepath import is_ours

    def formatted(message: Any, category: type, filename: str, lineno: int, line: str | None = None) -> str:
        if is_ours(filename):
            return f"{category.__name__}: {message}\n"
        return str(standard(message, category, filename, lineno, line))

    warnings.formatwarning = formatted  # type: ignore[attr-defined]
