"""Types, objects and exceptions of the user's in words, within bounds and whatever their own methods do."""

from __future__ import annotations

from itertools import islice

from .evaluation.namepath import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceback import TracebackException
    from typing import Any

# In characters.
MAX_TYPE = 200
MAX_MESSAGE = 4 * 1024
MAX_TRACEBACK = 32 * 1024
MAX_REPR = 1000

_LONG = frozenset({str, bytes, bytearray, list, tuple})
_CUT = "\n  …\n"


def type_name(kind: type) -> str:
    """The qualified name; without its module for builtins."""
    try:
        module, name = kind.__module__, kind.__qualname__
        full = name if module == "builtins" else f"{module}.{name}"
    except BaseException:  # a metaclass of the user's
        full = "?"
    return full[:MAX_TYPE]


def bounded_repr(value: Any) -> str:
    try:
        return str(repr(_start(value)))[:MAX_REPR]
    except BaseException as exc:  # user code
        return f"<{type_name(type(value))} whose repr raises {type_name(type(exc))}>"


def _start(value: Any) -> Any:
    """Of what is long, as much as the repr will show: all of it might take more memory than there is."""
    if type(value) in _LONG and len(value) > MAX_REPR:
        return value[:MAX_REPR]
    if type(value) is dict and len(value) > MAX_REPR:
        return dict(islice(value.items(), MAX_REPR))
    return value


def message(exc: BaseException) -> str:
    try:
        return str(exc)[:MAX_MESSAGE]
    except BaseException as inner:  # user code
        return f"<{type_name(type(exc))} whose str raises {type_name(type(inner))}>"


def exception(exc: BaseException) -> dict[str, str]:
    """`type`, `message` and `traceback`: as Python prints it, with the user's frames only."""
    return {"type": type_name(type(exc)), "message": message(exc), "traceback": _traceback(exc)}


def _traceback(exc: BaseException) -> str:
    try:
        # Takes 10 ms to import, and most sessions never raise.
        from traceback import TracebackException

        described = TracebackException(type(exc), exc, exc.__traceback__)
        _keep_user_frames(described, set())
        text = "".join(described.format())
    except BaseException:  # user code, or no memory or stack left
        return ""
    if len(text) <= MAX_TRACEBACK:
        return text
    # Where it began and where it broke.
    half = (MAX_TRACEBACK - len(_CUT)) // 2
    return text[:half] + _CUT + text[-half:]


def _keep_user_frames(described: TracebackException, seen: set[int]) -> None:
    if id(described) in seen:
        return
    seen.add(id(described))
    described.stack[:] = [frame for frame in described.stack if not is_ours(frame.filename)]
    for linked in (described.__cause__, described.__context__, *(getattr(described, "exceptions", None) or ())):
        if linked is not None:
            _keep_user_frames(linked, seen)
