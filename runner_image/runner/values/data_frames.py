"""Data frames in typed form, by columns: `{"$frame": "pandas" | "polars", "columns", "index"?, "data"}`, and back."""

from __future__ import annotations

import sys

from ..refusal import InvalidRequest
from .tables import counts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping

    from .rendering import Renderer

    # Makes a value out of what stands in the request, whose place there is the second argument.
    Resolve = Callable[[Any, str], Any]

# Types of polars without nulls that numpy has too. The rest is given as in JSON.
_POLARS_ARRAYS = frozenset(
    {"Boolean", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64"}
    | {"Date", "Datetime", "Duration"}
)


def _pandas(renderer: Renderer, value: Any) -> dict[str, Any]:
    columns = [value.iloc[:, i] for i in range(value.shape[1])]
    members = {"$frame": "pandas", "columns": renderer.render(value.columns.tolist())}
    if not columns or not counts(value.index):  # without columns, the index alone says how many rows there are
        members["index"] = _pandas_column(renderer, value.index)
    members["data"] = [_pandas_column(renderer, column) for column in columns]
    return members


def _pandas_column(renderer: Renderer, column: Any) -> Any:
    dtype = column.dtype
    if isinstance(dtype, sys.modules["numpy"].dtype) and not dtype.hasobject:
        return renderer.render(column.to_numpy())
    return renderer.render(column.tolist())


def _polars(renderer: Renderer, value: Any) -> dict[str, Any]:
    data = [_polars_column(renderer, column) for column in value.get_columns()]
    return {"$frame": "polars", "columns": value.columns, "data": data}


def _polars_column(renderer: Renderer, column: Any) -> Any:
    dtype = column.dtype
    exact = type(dtype).__name__ in _POLARS_ARRAYS and getattr(dtype, "time_zone", None) is None
    # (polars imports numpy by itself, if it is there.)
    if exact and not column.null_count() and "numpy" in sys.modules:
        return renderer.render(column.to_numpy())
    return renderer.render(column.to_list())


def frame(members: Mapping[str, Any], resolve: Resolve, field: str) -> Any:
    """The data frame that a `$frame` says; `resolve` makes the values of its columns and of its index.

    Raises: InvalidRequest, with the field; what `resolve` raises.
    """
    kind = members["$frame"]
    if kind not in ("pandas", "polars"):
        msg = "a frame is of 'pandas' or of 'polars'"
        raise InvalidRequest(msg, field + ".$frame")
    if kind == "polars" and "index" in members:
        msg = "a frame of polars has no index"
        raise InvalidRequest(msg, field + ".index")
    package = _package(kind, field)
    labels = _labels(_list(members["columns"], field + ".columns"), field + ".columns")
    columns = [
        _column(resolve(column, f"{field}.data[{i}]"), f"{field}.data[{i}]")
        for i, column in enumerate(_list(members["data"], field + ".data"))
    ]
    if len(labels) != len(columns):
        msg = f"a frame with {len(labels)} columns has {len(columns)} lists of data"
        raise InvalidRequest(msg, field + ".data")
    index = _index(resolve(members["index"], field + ".index"), field + ".index") if "index" in members else None
    _check_lengths(columns, index, field)
    try:
        return _made(package, kind, labels, columns, index)
    except Exception as exc:  # whatever the package thinks of these values
        msg = f"{kind} makes no frame of this: {exc}"
        raise InvalidRequest(msg[:1000], field) from None


def _made(package: Any, kind: str, labels: list[Any], columns: list[Any], index: Any) -> Any:
    """Labels are set only then: they may repeat, and some mean something else to those who make frames."""
    if kind == "polars":
        frame = package.DataFrame([package.Series(values=column) for column in columns])
        frame.columns = labels
        return frame
    if type(index) is list:
        index = package.Index(index)
    frame = package.DataFrame(dict(enumerate(columns)), index=index)
    if labels:
        frame.columns = package.Index(labels)
    return frame


def _package(kind: str, field: str) -> Any:
    from importlib import import_module

    try:
        return import_module(kind)
    except ImportError:
        msg = f"a frame of {kind} needs {kind}, which is not in the environment"
        raise InvalidRequest(msg, field) from None


def _list(value: Any, field: str) -> list[Any]:
    if type(value) is not list:
        msg = "this has to be a list"
        raise InvalidRequest(msg, field)
    return value


def _column(value: Any, field: str) -> Any:
    if type(value) is list or getattr(value, "ndim", None) == 1:
        return value
    msg = "a column has to be a list or an array of one dimension"
    raise InvalidRequest(msg, field)


def _check_lengths(columns: list[Any], index: Any, field: str) -> None:
    length = len(index) if index is not None else len(columns[0]) if columns else 0
    for i, column in enumerate(columns):
        if len(column) != length:
            msg = f"this column has {len(column)} values, and there are {length} rows"
            raise InvalidRequest(msg, f"{field}.data[{i}]")


def _index(value: Any, field: str) -> Any:
    index = _column(value, field)
    return _labels(index, field) if type(index) is list else index


def _labels(labels: list[Any], field: str) -> list[Any]:
    """Labels of several levels, which are lists in JSON, become tuples."""
    return [_label(label, f"{field}[{i}]") for i, label in enumerate(labels)]


def _label(label: Any, field: str) -> Any:
    if type(label) is dict:
        msg = "an object is no label"
        raise InvalidRequest(msg, field)
    return tuple(_labels(label, field)) if type(label) is list else label


KNOWN: dict[tuple[str, str], Callable[[Renderer, Any], Any]] = {
    ("pandas", "DataFrame"): _pandas,
    ("polars", "DataFrame"): _polars,
}
