"""Annotations of a function as text. None is evaluated: from Python 3.14 on they are code, which is not run as it stands."""

from __future__ import annotations

import dis
import sys
import types
from functools import lru_cache

from . import hints
from .statics import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

_TEMPLATE = "def template(x: y): ..."


def of_function(function: Any) -> dict[str, str]:
    """By parameter, and "return"; without those that only running somebody's code could tell."""
    annotate = _annotate(function)
    found = read(function, "__annotations__") if annotate is None else _read_off(annotate)
    return {name: hints.text(each) for name, each in found.items()} if type(found) is dict else {}


def of_fields(init: Any, defined: Mapping[str, Any]) -> dict[str, str]:
    """Where `dataclasses` made the `__init__` of a class, and what makes its annotations: those of the fields."""
    annotate, fields = _annotate(init), defined.get("__dataclass_fields__")
    if annotate is None or _compiled(annotate) or type(fields) is not dict:
        return {}
    return {name: hints.text(read(each, "type")) for name, each in fields.items()}


def _annotate(function: Any) -> Any:
    """What makes the annotations once they are asked for; None where they are there."""
    return read(function, "__annotate__") if sys.version_info >= (3, 14) else None


def _compiled(annotate: Any) -> bool:
    """The compiler wrote it, out of what stands in a `def`. Any other may do whatever it likes."""
    if type(annotate) is not types.FunctionType:
        return False
    begin = _begin()
    return begin is not None and begin in annotate.__code__.co_code


@lru_cache(maxsize=None)
def _begin() -> bytes | None:
    """How the compiler begins each: with a refusal of all but real annotations, as no source can be written."""
    module = compile(_TEMPLATE, "<template>", "exec", dont_inherit=True)
    for code in module.co_consts:
        if type(code) is types.CodeType and code.co_name == "__annotate__":
            ends = {each.opname: each.offset + 2 for each in reversed(list(dis.get_instructions(code)))}
            return code.co_code[ends["RESUME"] : ends["RAISE_VARARGS"]]
    return None


def _read_off(annotate: Any) -> Any:
    """Each as it was written. `annotationlib` tries the real thing first, so what it is given knows no name."""
    if not _compiled(annotate):
        return None
    import annotationlib  # type: ignore[import-not-found]  # new in Python 3.14

    cells = tuple(types.CellType() for _ in annotate.__code__.co_freevars)
    nameless = types.FunctionType(annotate.__code__, {"__builtins__": {}}, closure=cells or None)
    try:
        return annotationlib.call_annotate_function(nameless, annotationlib.Format.STRING)
    except Exception:  # some forms cannot be read off
        return None
