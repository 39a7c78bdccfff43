"""Signatures as they are written and as JSON Schema."""

from __future__ import annotations

from math import isfinite

from . import hints
from .statics import is_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POSITIONAL_ONLY = "positional_only"
POSITIONAL_OR_KEYWORD = "positional_or_keyword"
VAR_POSITIONAL = "var_positional"
KEYWORD_ONLY = "keyword_only"
VAR_KEYWORD = "var_keyword"
_POSITIONAL = (POSITIONAL_ONLY, POSITIONAL_OR_KEYWORD)

MAX_DEFAULT = 200  # characters; and elements, and bits
NOT_WRITTEN = "..."
_ATOMS = frozenset({type(None), bool, int, float, str, bytes})


class Parameter:
    """`default` is how the default is written, None where there is none; `value` is that in JSON, in a list, or nothing."""

    __slots__ = ("annotation", "default", "kind", "name", "value")

    def __init__(
        self,
        name: str,
        kind: str,
        default: str | None = None,
        value: tuple[Any, ...] = (),
        annotation: str | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.value = value
        self.annotation = annotation

    def __str__(self) -> str:
        stars = {VAR_POSITIONAL: "*", VAR_KEYWORD: "**"}.get(self.kind, "")
        annotated = "" if self.annotation is None else f": {self.annotation}"
        equals = " = " if annotated else "="
        return stars + self.name + annotated + ("" if self.default is None else equals + self.default)

    def schema(self) -> dict[str, Any]:
        members = {} if self.annotation is None else hints.schema(self.annotation)
        if self.kind == VAR_POSITIONAL:
            members = {"type": "array", "items": members} if members else {"type": "array"}
        if self.value:
            members = hints.or_none(members) if self.value[0] is None else members
            members["default"] = self.value[0]
        if self.annotation is not None:
            members["x-python"] = self.annotation
        if self.kind != POSITIONAL_OR_KEYWORD:
            members["x-kind"] = self.kind
        return members


class Signature:
    """`text` is all there is where a C function's own signature is no Python; then `parameters` is None."""

    __slots__ = ("_text", "parameters", "returns")

    def __init__(self, parameters: list[Parameter] | None, returns: str | None = None, text: str = "") -> None:
        self.parameters = parameters
        self.returns = returns
        self._text = text

    def __str__(self) -> str:
        if self.parameters is None:
            return self._text
        parts: list[str] = []
        previous = None
        for parameter in self.parameters:
            if previous == POSITIONAL_ONLY != parameter.kind:
                parts.append("/")
            if parameter.kind == KEYWORD_ONLY and previous not in (KEYWORD_ONLY, VAR_POSITIONAL):
                parts.append("*")
            parts.append(str(parameter))
            previous = parameter.kind
        if previous == POSITIONAL_ONLY:
            parts.append("/")
        return f"({', '.join(parts)})" + ("" if self.returns is None else f" -> {self.returns}")

    def without(self, count: int) -> Signature:
        """What is left to give where the first `count` positional arguments are given already."""
        if self.parameters is None:
            return self
        rest = [each for i, each in enumerate(self.parameters) if i >= count or each.kind not in _POSITIONAL]
        return Signature(rest, self.returns)

    def returning(self, returns: str | None) -> Signature:
        return Signature(self.parameters, returns, self._text)

    def annotated(self, texts: dict[str, str]) -> Signature:
        """With annotations for parameters that have none."""
        if self.parameters is None or not texts:
            return self
        given = [
            Parameter(each.name, each.kind, each.default, each.value, each.annotation or texts.get(each.name))
            for each in self.parameters
        ]
        return Signature(given, self.returns)

    def schema(self) -> dict[str, Any] | None:
        """JSON Schema (2020-12) of an object that holds the arguments by name."""
        if self.parameters is None:
            return None
        named = [parameter for parameter in self.parameters if parameter.kind != VAR_KEYWORD]
        rest = next((parameter for parameter in self.parameters if parameter.kind == VAR_KEYWORD), None)
        further = False if rest is None else hints.schema(rest.annotation or "") or True
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {parameter.name: parameter.schema() for parameter in named},
            "required": [each.name for each in named if each.default is None and each.kind != VAR_POSITIONAL],
            "additionalProperties": further,
        }


def written(value: Any) -> tuple[str, tuple[Any, ...]]:
    """How a default is written, and the same in JSON, in a tuple, where that has it."""
    kind = type(value)
    if kind in _ATOMS:
        return _atom(value)
    if is_class(value):
        return hints.text(value), ()
    if kind is dict and not value:
        return "{}", ({},)
    if kind in (list, tuple) and len(value) <= MAX_DEFAULT and _ATOMS.issuperset(map(type, value)):
        items = [_atom(item) for item in value]
        text = ", ".join(text for text, _ in items)
        text = f"[{text}]" if kind is list else f"({text},)" if len(items) == 1 else f"({text})"
        if len(text) <= MAX_DEFAULT:
            return text, (list(value),) if all(plain for _, plain in items) else ()
    return NOT_WRITTEN, ()


def _atom(value: Any) -> tuple[str, tuple[Any, ...]]:
    # Digits of a long integer take long to make, and past a length are refused.
    text = NOT_WRITTEN if type(value) is int and value.bit_length() > MAX_DEFAULT else repr(value)
    if len(text) > MAX_DEFAULT:
        text = NOT_WRITTEN
    plain = type(value) is not bytes and text is not NOT_WRITTEN and not (type(value) is float and not isfinite(value))
    return text, (value,) if plain else ()
