"""Signatures that C functions and classes carry as text, in `__text_signature__` or at the head of their docs."""

from __future__ import annotations

import ast
import re
import types

from .parameters import (
    KEYWORD_ONLY,
    MAX_DEFAULT,
    NOT_WRITTEN,
    POSITIONAL_ONLY,
    POSITIONAL_OR_KEYWORD,
    VAR_KEYWORD,
    VAR_POSITIONAL,
    Parameter,
    Signature,
    written,
)
from .statics import doc, is_class, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_TEXT = 20_000  # characters that are looked at
_NO_VALUE = re.compile(r"=<[^<>]*>")  # `=<no value>`: a default that cannot be written

_class_text = type.__dict__["__text_signature__"].__get__


def signature(value: Any, first: int) -> Signature | None:
    """What the text says, without the first `first` arguments; None where there is none.

    `$self` and `$module` are given already, but for the first argument of a method that is reached by its class.
    """
    found = _text(value)
    if found is None:
        return None
    given = "$" in found and type(value) not in (types.MethodDescriptorType, types.WrapperDescriptorType)
    plain = _NO_VALUE.sub(f"={NOT_WRITTEN}", " ".join(found.replace("$", "").split()))
    source = f"def f{plain}: pass"
    try:
        parsed = ast.parse(source).body[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Signature(None, text=plain)
    if not isinstance(parsed, ast.FunctionDef):
        return None
    returns = _written(parsed.returns, source)
    return Signature(_parameters(parsed.args, source), returns).without(max(first, int(given)))


def _text(value: Any) -> str | None:
    """From its parenthesis on."""
    found = _class_text(value) if is_class(value) else read(value, "__text_signature__")
    if type(found) is str and found.lstrip().startswith("(") and len(found) <= MAX_TEXT:
        return found.strip()
    name = read(value, "__name__")
    return in_doc(doc(value), name)[0] if type(name) is str else None


def in_doc(text: str, name: str) -> tuple[str | None, str]:
    """The signature that a doc may begin with, such as `dot(a, b, out=None)`, and what comes after it."""
    begin = re.match(rf"\s*(?:\w+\.)*{re.escape(name)}(?=\()", text[:MAX_TEXT])
    if begin is None:
        return None, text
    depth = 0
    for i, character in enumerate(text[begin.end() : MAX_TEXT], begin.end()):
        depth += (character in "([{") - (character in ")]}")
        if not depth:
            found = text[begin.end() : i + 1]
            returns = re.match(r" -> [\w.\[\], |]+", text[i + 1 : MAX_TEXT])
            rest = text[i + 1 :] if returns is None else text[i + 1 + returns.end() :]
            return found + ("" if returns is None else returns.group()), rest
    return None, text


def _parameters(arguments: ast.arguments, source: str) -> list[Parameter]:
    positional = [(each, POSITIONAL_ONLY) for each in arguments.posonlyargs]
    positional += [(each, POSITIONAL_OR_KEYWORD) for each in arguments.args]
    defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    found = [_parameter(*each, default, source) for each, default in zip(positional, defaults)]
    if arguments.vararg is not None:
        found.append(_parameter(arguments.vararg, VAR_POSITIONAL, None, source))
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        found.append(_parameter(each, KEYWORD_ONLY, default, source))
    if arguments.kwarg is not None:
        found.append(_parameter(arguments.kwarg, VAR_KEYWORD, None, source))
    return found


def _parameter(argument: ast.arg, kind: str, default: ast.expr | None, source: str) -> Parameter:
    annotation = _written(argument.annotation, source)
    text = _written(default, source)
    if default is None or text is None:
        return Parameter(argument.arg, kind, annotation=annotation)
    try:
        value = written(ast.literal_eval(default))[1]
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        value = ()
    return Parameter(argument.arg, kind, text[:MAX_DEFAULT], value, annotation)


def _written(node: ast.expr | None, source: str) -> str | None:
    return None if node is None else ast.get_source_segment(source, node)
