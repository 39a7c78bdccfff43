"""Resolves a namepath and calls what it names: protocol section 2. One fault kind for each way to fail."""

from __future__ import annotations

import builtins
import sys

from ..refusal import AttributeNotFound, NameNotFound, NotCallable
from .results import awaited
from .warned import adapt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable, Iterable

    from .arguments import Request, Step
    from .tuples import Tuple

_Module = type(sys)
_import = __import__
# Where our own code is: a traceback without other files in it did not reach user code.
OUR_FILES = __file__.rpartition("/")[0].rpartition("/")[0] + "/"
IMPORT_MACHINERY = "<frozen importlib."

# Names that no module has: to look for one on all of the path again takes longer than most calls.
_found_builtins: set[str] = set()
# Python notes here which warnings it has shown with a line of this file as their place.
__warningregistry__: dict[Any, Any] = {}


def apply(request: Request) -> Any:
    """What the call returns; a coroutine has been awaited. Without steps there is nothing to call: None.

    Raises: Refusal: a step names what is not there, or calls what cannot be called. Whatever user code raises;
    ArgumentRaised where that was a typed argument's.
    """
    if not request.steps:
        return None
    steps = request.steps
    return call(resolve(steps), steps[-1], request.positional, request.keywords, request.fields)


def resolve(steps: list[Step]) -> Any:
    """What a namepath names. Its elements with arguments have been called, but for the last. Raises as `apply` does."""
    __warningregistry__.clear()  # each call shows its own
    *inner, last = steps
    value: Any = None
    for step in inner:
        value = _resolve(value, step, first=step is steps[0])
        if step.positional is not None:
            value = invoke(_target(value, step), made(step.positional), step.keywords or {})
    return _resolve(value, last, first=not inner)


def call(
    value: Any, last: Step, positional: list[Any] | Tuple, keywords: dict[str, Any], fields: tuple[str, str]
) -> Any:
    """What the last step named, called with its own arguments and then with these, if it can be.

    Args: fields: where positional and keyword arguments stand in the request.
    """
    if callable(value):
        own = made(last.positional) if last.positional else ()
        if last.keywords:
            keywords = {**last.keywords, **keywords}
        if value is exec or value is eval:
            return invoke(value, [*own, *made(positional)], keywords)
        return awaited(value(*own, *made(positional), **keywords))
    if last.positional or last.keywords:
        raise _not_callable(value, last, last.field)
    if positional or keywords:
        raise _not_callable(value, last, fields[0] if positional else fields[1])
    return value


def invoke(function: Any, positional: list[Any], keywords: dict[str, Any]) -> Any:
    """One call. A coroutine is awaited.

    Code that is to run among the names of whoever calls `exec` or `eval` runs in `__main__`: not among ours, and what it
    leaves there later calls find.
    """
    if (function is exec or function is eval) and len(positional) == 1 and not keywords:
        main = sys.modules.get("__main__")
        if main is not None:
            vars(main).pop("__warningregistry__", None)  # as of our own
            positional = [*positional, vars(main)]
    return awaited(function(*positional, **keywords))


def made(positional: list[Any] | Tuple) -> list[Any]:
    """Positional arguments as they are passed. Raises ArgumentRaised, Refusal: a typed one is wrong."""
    return positional if isinstance(positional, list) else positional.made()


def function(steps: list[Step]) -> Callable[..., Any]:
    """What a namepath names, to be called with more arguments after its own. Raises as `apply` does."""
    target = resolve(steps)
    last = steps[-1]
    own, keywords = made(last.positional or []), last.keywords or {}
    _target(target, last)
    return lambda *positional: invoke(target, [*own, *positional], keywords)


def _target(value: Any, step: Step) -> Any:
    if not callable(value):
        raise _not_callable(value, step, step.field)
    return value


def _resolve(value: Any, step: Step, *, first: bool) -> Any:
    if first:
        return _first(step) if step.target is step.NO_TARGET else step.target
    name = step.name
    if name == "__init__" and isinstance(value, type):
        return value  # to be called: its construction
    if step.is_module and isinstance(value, _Module):
        found = _submodule(value, name)
        if found is not None:
            return found
    for part in name.split("."):
        value = _attribute(value, part, step)
    return value


def _first(step: Step) -> Any:
    if step.name in _found_builtins:
        return getattr(builtins, step.name)
    module = _module(step.name)
    if module is not None:
        adapt()
        return module
    if hasattr(builtins, step.name):
        _found_builtins.add(step.name)
        return getattr(builtins, step.name)
    top = step.name.partition(".")[0]
    msg = f"no module and no builtin is called {step.name!r}" + _hint(top, _top_level_names())
    raise NameNotFound(msg, step.field)


def _module(name: str) -> Any:
    """The module of that dotted name, imported if need be; None if there is none. Raises what importing it raises."""
    module = sys.modules.get(name)
    if module is not None:
        return module
    try:
        _import(name)
    except ModuleNotFoundError as exc:
        if _is_missing(exc, name):
            return None
        raise
    return sys.modules[name]


def _is_missing(exc: ModuleNotFoundError, name: str) -> bool:
    """Whether `name` itself was not found, and not something that its code wanted to import."""
    if exc.name is None or not (name + ".").startswith(exc.name + "."):
        return False
    traceback: TracebackType | None = exc.__traceback__
    while traceback is not None:
        if not is_ours(traceback.tb_frame.f_code.co_filename):
            return False
        traceback = traceback.tb_next
    return True


def is_ours(filename: str) -> bool:
    """Whether code of this file is no code of the user's."""
    return filename.startswith((OUR_FILES, IMPORT_MACHINERY))


def _attribute(value: Any, name: str, step: Step) -> Any:
    try:
        return getattr(value, name)
    except AttributeError as exc:
        # A property may itself fail with an AttributeError, about another name or about none.
        if getattr(exc, "name", None) not in (None, name) or _is_of_a_property(exc, value, name):
            raise
    if isinstance(value, _Module):
        found = _submodule(value, name)
        if found is not None:
            return found
    msg = f"{_called(value)} has no attribute {name!r}" + _hint(name, _dir(value))
    raise AttributeNotFound(msg, step.field)


def _is_of_a_property(exc: AttributeError, value: Any, name: str) -> bool:
    """Whether the attribute is there, and it was code of its own that raised."""
    ran = exc.__traceback__ is not None and exc.__traceback__.tb_next is not None
    kinds = type(value).__mro__ + (value.__mro__ if isinstance(value, type) else ())
    return ran and any(name in vars(kind) for kind in kinds)


def _submodule(module: Any, name: str) -> Any:
    return _module(f"{module.__name__}.{name}")


def _not_callable(value: Any, step: Step, field: str) -> NotCallable:
    return NotCallable(f"{step.name!r} is {_called(value)}, which takes no arguments: it is not callable", field)


def _called(value: Any) -> str:
    if isinstance(value, _Module):
        return f"module {value.__name__!r}"
    if isinstance(value, type):
        return f"class {value.__qualname__!r}"
    return f"an object of type {type(value).__qualname__!r}"


def _dir(value: Any) -> list[str]:
    try:
        return [name for name in dir(value) if type(name) is str]
    except Exception:  # user code; a hint is no reason to fail
        return []


def _top_level_names() -> Iterable[str]:
    import os

    names = {*sys.builtin_module_names, *getattr(sys, "stdlib_module_names", ()), *sys.modules, *vars(builtins)}
    for directory in sys.path:
        try:
            names.update(entry.partition(".")[0] for entry in os.listdir(directory))  # noqa: PTH208
        except OSError:
            continue
    return [name for name in names if name.isidentifier()]


def _hint(name: str, candidates: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name[:100], candidates, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
