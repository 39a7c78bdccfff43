"""Signatures of whatever can be called. Nothing is evaluated: they are taken off code objects and C functions' own texts."""

from __future__ import annotations

import sys
import types
from functools import partial

from . import hints, text_signatures
from .parameters import (
    KEYWORD_ONLY,
    POSITIONAL_ONLY,
    POSITIONAL_OR_KEYWORD,
    VAR_KEYWORD,
    VAR_POSITIONAL,
    Parameter,
    Signature,
    written,
)
from .statics import bases, is_class, namespace, read, unwrapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MOST_WRAPPERS = 20
_VARARGS, _VARKEYWORDS = 0x04, 0x08  # of `co_flags`


def signature(value: Any, *, bound: bool = False) -> Signature | None:
    """How a callable is called; None where nobody can tell. `bound`: it is reached by an object, its first argument."""
    first = 1 if bound or type(value) in (classmethod, types.MethodType) else 0
    if is_class(value):
        return _of_class(value)
    if type(value) is partial:
        return _of_partial(value)
    value = _innermost(unwrapped(value))
    code = read(value, "__code__")
    # A function may carry a text that tells more than its code.
    if type(code) is types.CodeType and type(namespace(value).get("__text_signature__")) is not str:
        return _of_code(value, code).without(first)
    return text_signatures.signature(value, first)


def _innermost(value: Any) -> Any:
    """What decorators were put around, the C function in a method included."""
    for _ in range(_MOST_WRAPPERS):
        inner = read(value, "__func__") if type(value) is types.MethodType else read(value, "__wrapped__")
        if inner is None or is_class(inner):
            break
        value = unwrapped(inner)
    return value


def _of_class(value: type) -> Signature | None:
    """Of the construction: the nearest `__init__` or `__new__`."""
    for base, defined in bases(value):
        for name in ("__init__", "__new__"):
            if name not in defined or base is object:
                continue
            maker = unwrapped(defined[name])
            if read(maker, "__code__") is not None:
                found = signature(maker)
                return None if found is None else found.without(1)
            return text_signatures.signature(base, 0)
    return Signature([])


def _of_partial(value: Any) -> Signature | None:
    found = signature(read(value, "func"))
    given = read(value, "keywords")
    if found is None or found.parameters is None or type(given) is not dict:
        return None
    rest = found.without(len(read(value, "args"))).parameters or []
    return Signature([parameter for parameter in rest if parameter.name not in given], found.returns)


def _of_code(value: Any, code: types.CodeType) -> Signature:
    defaults = read(value, "__defaults__")
    keyword_defaults = read(value, "__kwdefaults__")
    texts = _annotation_texts(value)
    given: dict[str, Any] = dict(keyword_defaults) if type(keyword_defaults) is dict else {}
    if type(defaults) is tuple and defaults:
        given.update(zip(code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults))
    parameters = []
    for name, kind in _kinds(code):
        default, plain = written(given[name]) if name in given else (None, ())
        parameters.append(Parameter(name, kind, default, plain, texts.get(name)))
    return Signature(parameters, texts.get("return"))


def _kinds(code: types.CodeType) -> list[tuple[str, str]]:
    """Names and kinds of the parameters, in the order of a signature; `co_varnames` has the starred ones last."""
    positional, keywords = code.co_argcount, code.co_kwonlyargcount
    names = list(code.co_varnames)
    found = [
        (name, POSITIONAL_ONLY if i < code.co_posonlyargcount else POSITIONAL_OR_KEYWORD)
        for i, name in enumerate(names[:positional])
    ]
    starred = names[positional + keywords :]
    if code.co_flags & _VARARGS:
        found.append((starred.pop(0), VAR_POSITIONAL))
    found += [(name, KEYWORD_ONLY) for name in names[positional : positional + keywords]]
    if code.co_flags & _VARKEYWORDS:
        found.append((starred.pop(0), VAR_KEYWORD))
    return found


def _annotation_texts(value: Any) -> dict[str, str]:
    if sys.version_info >= (3, 14) and type(value) is types.FunctionType:
        import annotationlib  # there, annotations are code: it is read, not run

        found: Any = annotationlib.get_annotations(value, format=annotationlib.Format.STRING)
    else:
        found = read(value, "__annotations__")
    return {name: hints.text(each) for name, each in found.items()} if type(found) is dict else {}
