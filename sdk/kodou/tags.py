"""Tags: objects of one key, or of a few fixed ones, that stand for what JSON cannot hold."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite, isnan
from typing import Any

_REFERENCE = re.compile("r[0-9a-f]*-?[0-9]+")
_OF_TEXT = frozenset({"$file", "$bytes"})
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
# Tags of several keys: those that have to be there, and those that may.
_SHAPES = (
    ("$array", {"$array", "dtype", "shape"}, {"$array", "dtype", "shape"}),
    ("$image", {"$image", "type"}, {"$image", "type"}),
    ("$frame", {"$frame", "columns", "data"}, {"$frame", "columns", "index", "data"}),
)
# A reference, as a reply shows it.
_KEPT = frozenset({"$ref", "type", "repr"})


def tag_of(members: Mapping[Any, Any]) -> str | None:
    """Which tag an object has the shape of; None: it is none, whatever it resembles."""
    if len(members) == 1:
        ((name, inner),) = members.items()
        if name == "$ref":
            return name if _names_kept(inner) else None
        if name == "$object":
            return name if isinstance(inner, dict) else None
        if name == "$float":
            return name if isinstance(inner, str) and inner in _NOT_FINITE else None
        return name if name in _OF_TEXT and isinstance(inner, str) else None
    for name, least, most in _SHAPES:
        if least <= members.keys() <= most:
            return name if isinstance(members[name], str) else None
    return "$ref" if members.keys() == _KEPT and _names_kept(members["$ref"]) else None


def _names_kept(text: Any) -> bool:
    return isinstance(text, str) and _REFERENCE.fullmatch(text) is not None


def dumps(tree: Any) -> bytes:
    """A tree of what JSON holds, as that; numbers that are not finite as tags. Raises as `json.dumps`: `TypeError`;
    `ValueError`: a tree that holds itself, or is too deep."""
    try:
        with suppress(ValueError):
            return _dumps(tree)
        return _dumps(_tagged(tree))  # rare, so looked for only now
    except RecursionError:
        msg = "an argument holds itself, or is nested too deeply"
        raise ValueError(msg) from None


def _dumps(tree: Any) -> bytes:
    return json.dumps(tree, separators=(",", ":"), allow_nan=False).encode()


def _tagged(tree: Any) -> Any:
    if isinstance(tree, float) and not isfinite(tree):
        return {"$float": "NaN" if isnan(tree) else "Infinity" if tree > 0 else "-Infinity"}
    if isinstance(tree, dict):
        tagged = {name: _tagged(value) for name, value in tree.items()}
        return {"$object": tagged} if tag_of(tagged) != tag_of(tree) else tagged
    return [_tagged(item) for item in tree] if isinstance(tree, (list, tuple)) else tree
