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
_CALL = re.compile(r"\s*(?:\w+\.)*(\w+)(?=\()")
_OPTIONAL = re.compile(r"\[ *,")

_class_text = type.__dict__["__text_signature__"].__get__


def signature(value: Any, first: int) -> Signature | None:
    """What the text says, without the first `first` arguments; None where there is none.

    `$self` and `$module` are given already, but for the first argument of a method that is reached by its class.
    """
    texts = _texts(value)
    if not texts:
        return None
    given = "$" in texts[0] and type(value) not in (types.MethodDescriptorType, types.WrapperDescriptorType)
    plain = [_NO_VALUE.sub(f"={NOT_WRITTEN}", " ".join(text.replace("$", "").split())) for text in texts]
    parsed = _parsed(plain[0]) if len(plain) == 1 else None
    return Signature(None, text="\n".join(plain)) if parsed is None else parsed.without(max(first, int(given)))


def _texts(value: Any) -> list[str]:
    """From their parentheses on; several where it may be called in several ways."""
    found = _class_text(value) if is_class(value) else read(value, "__text_signature__")
    if type(found) is str and found.lstrip().startswith("(") and len(found) <= MAX_TEXT:
        return [found.strip()]
    return in_doc(doc(value), value)[0]


def in_doc(text: str, value: Any) -> tuple[list[str], str]:
    """The signatures that the doc of a value may begin with, such as `dot(a, b, out=None)`, and what comes after them."""
    text = text[:MAX_TEXT]
    name = read(value, "__name__")
    found: list[str] = []
    begin = _begin(text, name) if type(name) is str else None
    while begin is not None:
        end = _end(text, begin.end())
        if end is None:
            break
        # What it returns may be said in words, on further lines that are indented.
        returns = re.match(r" *-{1,2}> *([\w.\[\], |]*)[^\n]*(?:\n[ \t]+[^\n]*)*", text[end:])
        told = "" if returns is None else returns.group(1).strip()
        found.append(text[begin.end() : end] + (told and f" -> {told}"))
        text = text[end:] if returns is None else text[end + returns.end() :]
        begin = _begin(text, name)
    return found, text


def _begin(text: str, name: str) -> re.Match[str] | None:
    begin = _CALL.match(text)
    return begin if begin is not None and begin.group(1) == name else None


def _end(text: str, begin: int) -> int | None:
    """After the parenthesis that closes the one at `begin`."""
    depth = 0
    for i, character in enumerate(text[begin:], begin):
        depth += (character in "([{") - (character in ")]}")
        if not depth:
            return i + 1
    return None


def _parsed(text: str) -> Signature | None:
    """None where it is no Python. What comes back is often told in words: then without it."""
    for written_ in (text, text.rpartition(" -> ")[0]):
        source = f"def f{_without_brackets(written_)}: pass"
        try:
            parsed = ast.parse(source).body[0]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        if isinstance(parsed, ast.FunctionDef):
            return Signature(_parameters(parsed.args, source), _written(parsed.returns, source))
    return None


def _without_brackets(text: str) -> str:
    """`(a[, b[, c]])`, as C functions have it, is `(a, b=..., c=...)`."""
    if _OPTIONAL.search(text) is None:
        return text
    plain: list[str] = []
    name = ""  # as far as it is read
    opened: list[bool] = []  # of each bracket, whether it marks what is optional
    for i, character in enumerate(text):
        if character in ",)]" or _OPTIONAL.match(text, i):
            if True in opened and name.strip(" ,").isidentifier():
                plain.append(f"={NOT_WRITTEN}")
            name = ""
        if character == "[":
            opened.append(_OPTIONAL.match(text, i) is not None)
        if (character == "[" and opened[-1]) or (character == "]" and opened and opened.pop()):
            continue
        name += character
        plain.append(character)
    return "".join(plain)


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
    """As it stands in a source of one line; positions in it count bytes."""
    return None if node is None else source.encode()[node.col_offset : node.end_col_offset].decode()
