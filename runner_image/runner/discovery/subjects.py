"""What a namepath names, found without running it, and what that holds in turn."""

from __future__ import annotations

import builtins
import difflib
import pkgutil
import sys
import types

from ..evaluation.namepath import _module as imported
from ..refusal import AttributeNotFound, InvalidRequest, NameNotFound, ReferenceNotFound
from .statics import MISSING, has_method, is_class, is_module, lookup, names, namespace, type_name, unwrapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable

    # What the session keeps under a name; `field` is for the ReferenceNotFound that it raises.
    Kept = Callable[[str, str], Any]

_MAX_NAME = 100  # characters of a name in a refusal
_KIND_OF_TYPE = {
    staticmethod: "staticmethod",
    classmethod: "classmethod",
    types.ClassMethodDescriptorType: "classmethod",
}


class Subject:
    """Something to describe. `value` is `MISSING` where it is not there yet: a module that is not imported.

    `bound`: reached by an object, which is then the first argument of its methods.
    """

    __slots__ = ("bound", "kind", "value")

    def __init__(self, value: Any, kind: str, *, bound: bool = False) -> None:
        self.value = value
        self.kind = kind
        self.bound = bound


_LAZY = Subject(MISSING, "attribute")  # of a module that makes it when it is asked for


def find(namepath: Any, kept: Kept | None) -> tuple[str, Subject | None]:
    """The dotted name of what a namepath names, and that itself; None for an empty one.

    Raises: Refusal. Whatever importing a module raises.
    """
    steps = _steps(namepath)
    if not steps:
        return "", None
    member, name, field = steps[0]
    if member == "ref":
        if kept is None:
            msg = f"the session keeps nothing as {name[:_MAX_NAME]!r}"
            raise ReferenceNotFound(msg, f"{field}.ref")
        value = kept(name, f"{field}.ref")
        subject = subject_of(value, "function" if has_method(value, "__call__") else "object")
    else:
        subject = _first(name, field)
    for member, name, field in steps[1:]:
        if member == "moduleName" and is_module(subject.value):
            subject = _submodule(subject.value, name) or _further(subject, name, field)
            continue
        for part in name.split("."):
            subject = _further(subject, part, field)
    return ".".join(name for _, name, _ in steps), subject


def subject_of(value: Any, otherwise: str, *, bound: bool = False) -> Subject:
    """A value by its kind; `otherwise` is that of objects which are neither a class nor a module."""
    if is_class(value):
        return Subject(value, "class")
    if is_module(value):
        return Subject(value, "package" if "__path__" in namespace(value) else "module")
    return Subject(value, otherwise, bound=bound)


def members(subject: Subject | None) -> dict[str, Subject]:
    """Everything below a subject by name, such as `dir` would list; of None, what a namepath may begin with."""
    if subject is None:
        found = {name: Subject(MISSING, kind) for name, kind in _modules(None).items()}
        builtin = vars(builtins)
        return {**{name: _member(builtins, name, builtin[name]) for name in builtin}, **found}
    value = subject.value
    if subject.kind == "property" or value is MISSING:
        return {}
    listed = {name: _member(value, name, _standing(value, name)) for name in names(value)}
    if not is_module(value):
        return listed
    lazy = dict.fromkeys(_exported(value), _LAZY)
    below = {name: Subject(MISSING, kind) for name, kind in _modules(_path(value)).items()}
    return {**lazy, **below, **listed}


# --- namepaths ---


def _steps(namepath: Any) -> list[tuple[str, str, str]]:
    """(member, name, field) of each element; a name may be dotted."""
    if type(namepath) is str:
        if not all(namepath.split(".")):
            msg = "a name is a string, or several with dots between them"
            raise InvalidRequest(msg, "namepath")
        namepath = namepath.split(".")
    if type(namepath) is not list:
        msg = "'namepath' has to be a dotted string or a list"
        raise InvalidRequest(msg, "namepath")
    return [_step(element, f"namepath[{i}]", first=i == 0) for i, element in enumerate(namepath)]


def _step(element: Any, field: str, *, first: bool) -> tuple[str, str, str]:
    if type(element) is str:
        element = {"name": element}
    if type(element) is not dict:
        msg = "an element of a namepath has to be a string or an object"
        raise InvalidRequest(msg, field)
    allowed = ("name", "moduleName", "ref") if first else ("name", "moduleName")
    for member in element:
        if member in ("args", "kwargs", "tuple"):
            msg = "what is described is not called: no arguments here"
            raise InvalidRequest(msg, f"{field}.{member}")
        if member not in allowed:
            msg = f"the member {member[:_MAX_NAME]!r} is not known here"
            raise InvalidRequest(msg, f"{field}.{member}"[:_MAX_NAME])
    if len(element) != 1:
        msg = f"an element of a namepath has one of {', '.join(allowed)}"
        raise InvalidRequest(msg, field)
    [(member, name)] = element.items()
    if type(name) is not str or not all(name.split(".")):
        msg = "a name is a string, or several with dots between them"
        raise InvalidRequest(msg, f"{field}.{member}")
    return member, name, field


def _first(name: str, field: str) -> Subject:
    """A module, or a builtin; of a dotted name, what its parts lead to."""
    top, *rest = name.split(".")
    module = imported(top)
    if module is not None:
        subject = subject_of(module, "object")
    elif top in vars(builtins):
        subject = _member(builtins, top, vars(builtins)[top])
    else:
        known = [*_modules(None), *vars(builtins)]
        raise NameNotFound(f"no module and no builtin is called {top[:_MAX_NAME]!r}" + _hint(top, known), field)
    for part in rest:
        subject = _further(subject, part, field)
    return subject


def _further(subject: Subject, name: str, field: str) -> Subject:
    value = subject.value
    if subject.kind == "property" or value is MISSING:
        msg = "what stands before this is made when it is asked for, which is not done here"
        raise InvalidRequest(msg, field)
    found = _standing(value, name)
    if found is not MISSING:
        return _member(value, name, found)
    below = _submodule(value, name) if is_module(value) else None
    if below is not None:
        return below
    if is_module(value) and name in _exported(value):
        return _LAZY
    not_run = " (its __getattr__ is not run here)" if lookup(value, "__getattr__") is not MISSING else ""
    msg = f"{_called(value)} has no attribute {name[:_MAX_NAME]!r}{not_run}{_hint(name, members(subject))}"
    raise AttributeNotFound(msg, field)


def _submodule(module: Any, name: str) -> Subject | None:
    package = namespace(module).get("__name__")
    full = f"{package}.{name}"
    # Of a module that is no package the import machinery would ask `__path__`, and so its `__getattr__`.
    if type(package) is not str or ("__path__" not in namespace(module) and full not in sys.modules):
        return None
    found = imported(full)
    return None if found is None else subject_of(found, "object")


def _called(value: Any) -> str:
    if is_module(value):
        return f"module {str(namespace(value).get('__name__'))[:_MAX_NAME]!r}"
    if is_class(value):
        return f"class {type_name(value)!r}"
    return f"an object of type {type_name(type(value))!r}"


def _hint(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:_MAX_NAME], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


# --- members ---


def _standing(holder: Any, name: str) -> Any:
    """What stands under a name. Members of enumerations stand behind a descriptor in some Pythons."""
    enumerated = namespace(holder).get("_member_map_") if is_class(holder) else None
    if type(enumerated) is dict and name in enumerated:
        return enumerated[name]
    return lookup(holder, name)


def _member(holder: Any, name: str, found: Any) -> Subject:
    """What stands under `name` in `holder`: in a module or object itself, or in the class of an object."""
    bound = not is_module(holder) and not is_class(holder)
    own = is_module(holder) or (bound and name in namespace(holder))
    kind = _KIND_OF_TYPE.get(type(found))
    if kind is None:
        callable_ = has_method(found, "__call__")
        if own:
            kind = "function" if callable_ else "attribute"
        else:
            kind = "method" if callable_ else "property" if has_method(found, "__get__") else "attribute"
    return subject_of(unwrapped(found), kind, bound=not own and (kind == "classmethod" or (bound and kind == "method")))


def _exported(module: Any) -> list[str]:
    """Names that a module says it has: some are made only when they are asked for."""
    exported: Any = namespace(module).get("__all__", [])
    return [name for name in exported if type(name) is str] if type(exported) in (list, tuple) else []


def _path(package: Any) -> list[str]:
    """Where the modules of a package lie; of anything else, nothing."""
    path: Any = namespace(package).get("__path__", [])
    known = type(path) is list or type_name(type(path)).endswith("._NamespacePath")  # of the import machinery
    return [entry for entry in list(path) if type(entry) is str] if known else []


def _modules(path: list[str] | None) -> dict[str, str]:
    """Names and kinds of what can be imported from those directories; of None, all top-level modules."""
    found = {module.name: "package" if module.ispkg else "module" for module in pkgutil.iter_modules(path)}
    if path is None:
        loaded = {*sys.builtin_module_names, *(name for name in sys.modules if "." not in name)}
        found = {**dict.fromkeys(loaded, "module"), **found}
    return {name: kind for name, kind in found.items() if name.isidentifier()}
