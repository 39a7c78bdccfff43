"""Tables -> a stream of Arrow's: pyarrow's own, frames and series of pandas (where pyarrow is installed) and of polars."""

from __future__ import annotations

import sys
from io import BytesIO

from .buffer import Buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .images import Writer
    from .room import Room


def _pyarrow(value: Any) -> Writer:
    return lambda room: _stream(value, room)


def _stream(table: Any, room: Room) -> memoryview:
    room.check(table.nbytes)
    buffer = Buffer(room)
    with sys.modules["pyarrow"].ipc.new_stream(buffer, table.schema) as stream:
        stream.write(table)
    return buffer.getbuffer()


def _pandas(value: Any) -> Writer | None:
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        return None
    return lambda room: _converted(value, room)


def _converted(value: Any, room: Room) -> memoryview | None:
    import pyarrow  # type: ignore[import-untyped]

    try:
        table = pyarrow.Table.from_pandas(value, nthreads=1)
    except pyarrow.ArrowException:  # a column of objects that have no type in common
        return None
    return _stream(table, room)


def _polars(value: Any) -> Writer | None:
    if "Object" in {type(dtype).__name__ for dtype in value.dtypes}:  # it would be written as addresses
        return None
    return lambda room: _written(value, room)


def _written(value: Any, room: Room) -> memoryview:
    room.check(value.estimated_size())
    buffer = BytesIO()  # what a bounded one raises, polars would turn into an error of its own
    value.write_ipc_stream(buffer)
    return buffer.getbuffer()


KNOWN: dict[tuple[str, str], Callable[[Any], Writer | None]] = {
    ("pyarrow", "Table"): _pyarrow,
    ("pyarrow", "RecordBatch"): _pyarrow,
    ("pandas", "DataFrame"): _pandas,
    ("pandas", "Series"): lambda value: _pandas(value.to_frame()),
    ("polars", "DataFrame"): _polars,
    ("polars", "Series"): lambda value: _polars(value.to_frame()),
}
