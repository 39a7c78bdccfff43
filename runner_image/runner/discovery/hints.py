"""Annotations as text, and that text as JSON Schema. Nothing is evaluated: most of what is annotated is text already."""

from __future__ import annotations

import ast
import collections.abc
import types

from .statics import is_class, read, type_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Schema = dict[str, Any]

MAX_ANNOTATION = 500  # characters
_MAX_DEPTH = 20
_LITERALS = frozenset({type(None), bool, int, float, str, bytes})
_UNION = getattr(types, "UnionType", None)  # from Python 3.10 on
_ALIAS = getattr(types, "GenericAlias", None)  # from Python 3.9 on


def text(annotation: Any, depth: int = 0) -> str:
    """How an annotation would be written. `…` stands for what only code of the user's could tell."""
    if type(annotation) is str:
        return annotation[:MAX_ANNOTATION]
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is ...:
        return "..."
    if depth > _MAX_DEPTH:
        return "…"
    if is_class(annotation):
        return type_name(annotation)
    if type(annotation) in (list, tuple):  # the arguments of a Callable
        return f"[{', '.join(text(item, depth + 1) for item in annotation)}]"
    kind = type(annotation)
    if kind in (_ALIAS, _UNION) or type_name(kind).startswith(("typing.", "collections.abc.")):
        return _generic(annotation, depth)[:MAX_ANNOTATION]
    return "…"


def _generic(annotation: Any, depth: int) -> str:
    """Of a type of `types`, `typing` or `collections.abc`."""
    for attribute in ("__name__", "__forward_arg__"):  # type variables, forward references
        name = read(annotation, attribute)
        if type(name) is str and type(annotation) is not _ALIAS:
            return name
    origin, arguments = read(annotation, "__origin__"), read(annotation, "__args__")
    name = read(annotation, "_name")
    if type(arguments) is not tuple:
        return name if type(name) is str else "…"
    if read(origin, "_name") == "Literal":
        return f"Literal[{', '.join(repr(item) if type(item) in _LITERALS else '…' for item in arguments)}]"
    written = [text(item, depth + 1) for item in arguments]
    if origin is collections.abc.Callable and arguments and arguments[0] is not ...:
        written = [f"[{', '.join(written[:-1])}]", written[-1]]
    if type(annotation) is _UNION or read(origin, "_name") == "Union":
        return " | ".join(written)
    if read(annotation, "__metadata__") is not None:  # Annotated
        return text(origin, depth + 1)
    head = name if type(name) is str else text(origin, depth + 1)
    return f"{head}[{', '.join(written)}]" if written else head


def schema(annotation: str) -> Schema:
    """What JSON an argument with that annotation is written as; without bounds where that is not known."""
    try:
        return _schema(ast.parse(annotation.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return {}


def _schema(node: ast.expr) -> Schema:
    if isinstance(node, ast.Constant):
        return {"type": "null"} if node.value is None else schema(node.value) if type(node.value) is str else {}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _any_of([node.left, node.right])
    if isinstance(node, ast.Subscript):
        return _subscripted(_name(node.value), _items(node.slice))
    name = _name(node)
    if name in _PLAIN:
        return dict(_PLAIN[name])
    return _subscripted(name, [])


def _subscripted(name: str, items: list[ast.expr]) -> Schema:
    make = _GENERIC.get(name)
    return {} if make is None else make(items)


def _items(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _name(node: ast.expr) -> str:
    """`typing.List` and `List` are one; what another module calls so is something else."""
    module, _, name = _dotted(node).rpartition(".")
    return name if module in _MODULES else ""


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "…"


def _any_of(items: list[ast.expr]) -> Schema:
    options: list[Schema] = []
    for item in items:
        found = _schema(item)
        options += [option for option in found.get("anyOf", [found]) if option not in options]
    return {} if {} in options or not options else options[0] if len(options) == 1 else {"anyOf": options}


def _array(items: list[ast.expr]) -> Schema:
    element = _schema(items[0]) if items else {}
    return {"type": "array", "items": element} if element else {"type": "array"}


def _tuple(items: list[ast.expr]) -> Schema:
    if not items or (len(items) == 2 and isinstance(items[1], ast.Constant) and items[1].value is ...):
        return _array(items[:1])
    return {"type": "array", "prefixItems": [_schema(item) for item in items], "minItems": len(items), "items": False}


def _object(items: list[ast.expr]) -> Schema:
    values = _schema(items[1]) if len(items) == 2 else {}
    return {"type": "object", "additionalProperties": values} if values else {"type": "object"}


def _literal(items: list[ast.expr]) -> Schema:
    values = [ast.literal_eval(item) for item in items]
    known = all(type(value) in _LITERALS - {bytes, float} for value in values)
    return {"enum": values} if known else {}


def or_none(found: Schema) -> Schema:
    """A schema that takes null too, as `int = None` means it."""
    if not found or found.get("type") == "null" or None in found.get("enum", ()):
        return found
    options = found.get("anyOf", [found])
    return found if {"type": "null"} in options else {"anyOf": [*options, {"type": "null"}]}


_MODULES = frozenset({"", "typing", "t", "typing_extensions", "collections.abc", "abc", "builtins"})
_BYTES = {
    "type": "object",
    "properties": {"$bytes": {"type": "string", "contentEncoding": "base64"}},
    "required": ["$bytes"],
}
_PLAIN: dict[str, Schema] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": "string"},
    "bool": {"type": "boolean"},
    "bytes": _BYTES,
}
_GENERIC: dict[str, Callable[[list[ast.expr]], Schema]] = {
    **dict.fromkeys(("list", "List", "Sequence", "MutableSequence", "Iterable", "Collection"), _array),
    **dict.fromkeys(("tuple", "Tuple"), _tuple),
    **dict.fromkeys(("dict", "Dict", "Mapping", "MutableMapping"), _object),
    "Optional": lambda items: _any_of([*items, ast.Constant(None)]),
    "Union": _any_of,
    "Literal": _literal,
    "Annotated": lambda items: _schema(items[0]),
}
