"""What the caller has installed beside this package; none of it is needed."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any


@cache
def installed(name: str) -> bool:
    """Whether it could be imported; it is not."""
    return importlib.util.find_spec(name) is not None


def library(name: str) -> Any:
    """The module, or None."""
    return importlib.import_module(name) if installed(name) else None
