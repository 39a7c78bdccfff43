"""Looking at objects of the user's without running any code of theirs.

No `getattr`, `isinstance`, `dir`, `repr` or `str`: each may end in a method of the object, its class or its metaclass.
What is read is in dictionaries of objects and of classes, or in slots that C code reads.
"""

from __future__ import annotations

import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, Mapping

MISSING: Any = object()
MAX_NAME = 200  # characters

_class_mro = type.__dict__["__mro__"].__get__
_class_namespace = type.__dict__["__dict__"].__get__
_class_module = type.__dict__["__module__"].__get__
_class_qualname = type.__dict__["__qualname__"].__get__
_C_SLOTS = frozenset({types.GetSetDescriptorType, types.MemberDescriptorType})


def is_a(value: Any, kind: type) -> bool:
    """`isinstance` by the real type, whatever the object says of itself."""
    return kind in _class_mro(type(value))


def is_class(value: Any) -> bool:
    return is_a(value, type)


def is_module(value: Any) -> bool:
    return is_a(value, types.ModuleType)


def type_name(kind: type) -> str:
    """The qualified name; without its module for builtins."""
    module, name = _class_module(kind), _class_qualname(kind)
    full = name if type(module) is not str or module == "builtins" else f"{module}.{name}"
    return full[:MAX_NAME]


def namespace(value: Any) -> Mapping[Any, Any]:
    """An object's own attributes, without those of its class; of a class, without those of its bases."""
    if is_class(value):
        found: Mapping[Any, Any] = _class_namespace(value)
        return found
    own = _in_classes(type(value), "__dict__")
    if type(own) not in _C_SLOTS:
        return {}
    found = own.__get__(value)
    return found if type(found) is dict else {}


def names(value: Any) -> set[str]:
    """What `dir` gives where nobody changed that."""
    kind = value if is_class(value) else type(value)
    found = set(namespace(value))
    if not is_module(value):
        for each in _class_mro(kind):
            found.update(_class_namespace(each))
    return {name for name in found if type(name) is str}


def lookup(value: Any, name: str) -> Any:
    """What stands under a name, as it stands there: a descriptor itself, not what it gives. Else `MISSING`."""
    if is_class(value):
        found = _in_classes(value, name)
        return _in_classes(type(value), name) if found is MISSING else found
    own = namespace(value)
    return own[name] if name in own else _in_classes(type(value), name)


def read(value: Any, name: str) -> Any:
    """A special attribute, such as `__doc__`, where only C code is in the way; else None."""
    found = lookup(value, name)
    if type(found) in _C_SLOTS:
        try:
            return found.__get__(value)
        except Exception:  # not set, or not a slot of this object
            return None
    return None if found is MISSING else found


def doc(value: Any) -> str:
    """An object's own doc; not that of its class, nor of what a class is derived from."""
    if is_class(value) or is_module(value):
        found = namespace(value).get("__doc__")
    elif type(lookup(value, "__doc__")) in _C_SLOTS or "__doc__" in namespace(value):
        found = read(value, "__doc__")
    else:
        found = None
    return found if type(found) is str else ""


def method(value: Any, name: str) -> Any:
    """The special method of that name, as the type of an object has it; else `MISSING`."""
    return _in_classes(type(value), name)


def has_method(value: Any, name: str) -> bool:
    return method(value, name) is not MISSING


def bases(kind: type) -> Iterator[tuple[type, Mapping[str, Any]]]:
    """A class and those above it, nearest first, with what each defines itself."""
    for each in _class_mro(kind):
        yield each, _class_namespace(each)


def unwrapped(value: Any) -> Any:
    """The function in a static or class method; anything else as it is."""
    return value.__func__ if type(value) in (staticmethod, classmethod) else value


def _in_classes(kind: type, name: str) -> Any:
    for each in _class_mro(kind):
        found = _class_namespace(each).get(name, MISSING)
        if found is not MISSING:
            return found
    return MISSING
