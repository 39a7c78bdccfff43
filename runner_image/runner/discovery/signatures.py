"""Signatures of whatever can be called. Nothing is evaluated: they are taken off code objects and C functions' own texts."""

from __future__ import annotations

import inspect
import types
from functools import partial

from . import annotation_texts, hints, text_signatures
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
from .statics import bases, is_class, method, namespace, read, unwrapped

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
    declared = _declared(namespace(value).get("__signature__"))
    if declared is not None:
        return declared.without(first)
    code = read(value, "__code__")
    # A function may carry a text that tells more than its code.
    if type(code) is types.CodeType and type(namespace(value).get("__text_signature__")) is not str:
        return _of_code(value, code).without(first)
    return text_signatures.signature(value, first) or _of_call(value)


def _innermost(value: Any) -> Any:
    """What decorators were put around, the C function in a method included; or the first that declares its signature."""
    for _ in range(_MOST_WRAPPERS):
        inner = read(value, "__func__") if type(value) is types.MethodType else read(value, "__wrapped__")
        if inner is None or is_class(inner) or type(namespace(value).get("__signature__")) is inspect.Signature:
            break
        value = unwrapped(inner)
    return value


def _declared(found: Any) -> Signature | None:
    """What stands in `__signature__`: code that wraps other code tells so how it is called."""
    if type(found) is not inspect.Signature:
        return None
    parameters = []
    for each in found.parameters.values():
        if type(each) is not inspect.Parameter:
            return None
        default, plain = (None, ()) if each.default is each.empty else written(each.default)
        annotation = None if each.annotation is each.empty else hints.text(each.annotation)
        parameters.append(Parameter(each.name, each.kind.name.lower(), default, plain, annotation))
    returns = found.return_annotation
    return Signature(parameters, None if returns is found.empty else hints.text(returns))


def _of_call(value: Any) -> Signature | None:
    """Of an object that is called by a `__call__` written in Python."""
    call = method(value, "__call__")
    return signature(call, bound=True) if type(call) is types.FunctionType else None


def _of_class(value: type) -> Signature | None:
    """Of the construction: the nearest `__init__` or `__new__`. What comes back is not what these return."""
    for base, defined in bases(value):
        declared = _declared(defined.get("__signature__"))
        if declared is not None:
            return declared.returning(None)
        for name in ("__init__", "__new__"):
            if name not in defined or base is object:
                continue
            maker = unwrapped(defined[name])
            if read(maker, "__code__") is None:
                return text_signatures.signature(base, 0)
            found = signature(maker)
            if found is None:
                return None
            return found.without(1).returning(None).annotated(annotation_texts.of_fields(maker, defined))
    # A metaclass that makes instances in a way of its own may tell how.
    if method(value, "__call__") is not type.__call__:
        return _declared(read(value, "__signature__"))
    return Signature([])


def _of_partial(value: Any) -> Signature | None:
    """An argument that is given by name is a default, and what comes after it has to be named."""
    found = signature(read(value, "func"))
    given = read(value, "keywords")
    if found is None or found.parameters is None or type(given) is not dict:
        return None
    rest: list[Parameter] = []
    by_name = False
    for each in found.without(len(read(value, "args"))).parameters or []:
        by_name = by_name or (each.name in given and each.kind == POSITIONAL_OR_KEYWORD)
        if by_name and each.kind == VAR_POSITIONAL:
            continue
        kind = KEYWORD_ONLY if by_name and each.kind == POSITIONAL_OR_KEYWORD else each.kind
        default, plain = written(given[each.name]) if each.name in given else (each.default, each.value)
        rest.append(Parameter(each.name, kind, default, plain, each.annotation))
    return Signature(rest, found.returns)


def _of_code(value: Any, code: types.CodeType) -> Signature:
    defaults = read(value, "__defaults__")
    keyword_defaults = read(value, "__kwdefaults__")
    texts = annotation_texts.of_function(value)
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
