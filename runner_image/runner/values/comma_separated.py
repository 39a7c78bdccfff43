"""Tables -> CSV (RFC 4180, UTF-8): frames, series, arrays of one or two dimensions, lists of rows or of objects.

A cell is the JSON form of what it holds: texts bare, null and NaN as nothing, lists and objects as JSON.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from math import isfinite, isnan

from .buffer import Buffer
from .kinds import known, names
from .rendering import Renderer
from .tables import counts
from .text import NotFinite, dumps, utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Collection, Iterable, Iterator, Sequence

    from .images import Content, Writer
    from .room import Room

    # The rows of a part of the table, rendered.
    Rows = Callable[[Renderer, slice], Iterable[Iterable[Any]]]

# Rendered at a time.
_ROWS = 10_000
_SEQUENCES = frozenset({list, tuple})


class _Irregular(Exception):
    """Rows differ in what they have."""


def find(value: Any) -> Writer | None:
    table = known(type(value), _KNOWN)
    return None if table is None else table(value)


def is_regular(value: Any) -> bool:
    """Whether all rows of a list have the same members, from one look at each. Those of other tables do."""
    if not isinstance(value, (list, tuple)) or not value:
        return True
    first = value[0]
    if isinstance(first, Mapping):
        return all(isinstance(row, Mapping) and row.keys() == first.keys() for row in value)
    if _is_object(type(first)):
        return all(type(row) is type(first) for row in value)
    width = len(first)
    return all(isinstance(row, (list, tuple)) and not _is_object(type(row)) and len(row) == width for row in value)


def _writer(length: int, rows: Rows, header: Sequence[Any] = ()) -> Writer:
    """What writes a table of `length` rows."""

    def write(room: Room) -> memoryview | None:
        buffer = Buffer(room)
        try:
            if header:
                _write(buffer, [Renderer(room.max_bytes).render(list(header))])
            for start in range(0, length, _ROWS):
                _write(buffer, rows(Renderer(room.max_bytes), slice(start, start + _ROWS)))
        except _Irregular:
            return None
        return buffer.getbuffer()

    return write


def _write(buffer: Buffer, rows: Iterable[Iterable[Any]]) -> None:
    text = StringIO(newline="")
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    buffer.write(utf8(text.getvalue()))


def _cell(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is int or value is None or (kind is float and isfinite(value)):
        return value
    if kind is float and isnan(value):
        return None
    return dumps(value, NotFinite.AS_STRINGS).decode().strip('"')


def _pandas(value: Any) -> Writer:
    index = [] if counts(value.index) else [value.index.get_level_values(i) for i in range(value.index.nlevels)]
    header = ["" if level.name is None else level.name for level in index] + value.columns.tolist()

    def rows(renderer: Renderer, part: slice) -> Iterable[Sequence[Any]]:
        data = value.iloc[part]
        columns = [level[part] for level in index] + [data.iloc[:, i] for i in range(data.shape[1])]
        return zip(*[renderer.render(column.tolist()) for column in columns])

    return _writer(len(value), rows, header)


def _polars(value: Any) -> Writer:
    def rows(renderer: Renderer, part: slice) -> Iterable[Sequence[Any]]:
        return zip(*[renderer.render(column[part].to_list()) for column in value.get_columns()])

    return _writer(value.height, rows, value.columns)


def _array(value: Any) -> Writer | None:
    names = value.dtype.names
    if value.ndim == 1 and names is not None:
        return _writer(len(value), lambda renderer, part: _values(renderer.render(value[part]), names), names)
    if value.ndim == 1:
        return _writer(len(value), lambda renderer, part: [[item] for item in renderer.render(value[part])])
    return _writer(len(value), lambda renderer, part: renderer.render(value[part])) if value.ndim == 2 else None


def _list(value: Any) -> Writer | None:
    """Rows, if the first is one, or objects."""
    if not len(value):
        return _writer(0, lambda renderer, part: [])
    kind = type(value[0])
    if _is_object(kind):
        return lambda room: _objects(value, room)
    if not issubclass(kind, (list, tuple)):
        return None
    width = len(value[0])
    return _writer(len(value), lambda renderer, part: _of_width(renderer.items(value[part]), width))


def _objects(value: Any, room: Room) -> Content | None:
    first = Renderer(room.max_bytes).render(value[0])
    if type(first) is not dict:
        return None
    return _writer(len(value), lambda renderer, part: _values(renderer.items(value[part]), first), list(first))(room)


def _is_object(kind: type) -> bool:
    if issubclass(kind, Mapping) or hasattr(kind, "__dataclass_fields__") or ("pydantic", "BaseModel") in names(kind):
        return True
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def _values(objects: Iterable[Any], members: Collection[str]) -> Iterator[list[Any]]:
    wanted = set(members)
    for item in objects:
        if type(item) is not dict or item.keys() != wanted:
            raise _Irregular
        yield [item[name] for name in members]


def _of_width(rows: Iterable[Any], width: int) -> Iterator[Sequence[Any]]:
    for row in rows:
        if type(row) not in _SEQUENCES or len(row) != width:
            raise _Irregular
        yield row


_KNOWN: dict[tuple[str, str], Callable[[Any], Writer | None]] = {
    ("pandas", "DataFrame"): _pandas,
    ("pandas", "Series"): lambda value: _pandas(value.to_frame()),
    ("polars", "DataFrame"): _polars,
    ("polars", "Series"): lambda value: _polars(value.to_frame()),
    ("numpy", "ndarray"): _array,
    ("builtins", "list"): _list,
    ("builtins", "tuple"): _list,
}
