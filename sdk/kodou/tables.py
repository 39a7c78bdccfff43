"""Data frames of pandas and polars <-> tags, column by column; numbers as files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kodou import arrays
from kodou.errors import BadReply
from kodou.libraries import library

if TYPE_CHECKING:
    from kodou.arguments import Arguments, Where

_PACKAGES = ("pandas", "polars")
# Of polars: what numpy has too, and what polars makes of Python's values by itself.
_NUMBERS = frozenset({*(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)), "Float32", "Float64"})
_LISTED = frozenset({"Null", "Boolean", "Int64", "Float64", "String", "Binary"})


def is_frame(value: Any) -> bool:
    return _package(value) is not None


def _package(value: Any) -> str | None:
    for name in _PACKAGES:
        module = sys.modules.get(name)
        if module is not None and isinstance(value, module.DataFrame):
            return name
    return None


def encode(arguments: Arguments, frame: Any, where: Where) -> dict[str, Any]:
    """Raises TypeError: a column, or the index, would not arrive as it is."""
    package = _package(frame)
    names, columns = _pandas(frame, where) if package == "pandas" else _polars(frame)
    encoded = {
        "$frame": package,
        "columns": arguments.encode(names, (*where, "columns")),
        "data": [_column(arguments, column, (*where, name)) for name, column in zip(names, columns)],
    }
    if package == "pandas" and not _counts(frame.index):
        encoded["index"] = _column(arguments, frame.index, (*where, "index"))
    return encoded


def _pandas(frame: Any, where: Where) -> tuple[list[Any], list[Any]]:
    if frame.columns.nlevels > 1 or frame.index.nlevels > 1:
        from kodou.arguments import refused

        msg = "a frame with several levels would not arrive as one: `reset_index` makes columns of them"
        raise refused(msg, where)
    return frame.columns.tolist(), [frame.iloc[:, i] for i in range(frame.shape[1])]


def _polars(frame: Any) -> tuple[list[Any], list[Any]]:
    return frame.columns, frame.get_columns()


def _counts(index: Any) -> bool:
    """It is the index that pandas makes by itself: 0, 1, 2, …"""
    return type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1 and index.name is None


def _column(arguments: Arguments, column: Any, where: Where) -> Any:
    from kodou.arguments import refused

    if type(column).__module__.startswith("polars"):
        return _polars_column(arguments, column, where)
    numpy = sys.modules["numpy"]
    if isinstance(column.dtype, numpy.dtype) and arrays.portable(column):
        return arrays.encode(arguments, column.to_numpy(), where)
    if str(column.dtype) not in ("object", "str", "string"):
        msg = f"a column of dtype {column.dtype} would not arrive as one: convert it with `astype`"
        raise refused(msg, where)
    missing = column.isna()
    return arguments.items([None if lost else value for value, lost in zip(column.tolist(), missing)], where)


def _polars_column(arguments: Arguments, column: Any, where: Where) -> Any:
    from kodou.arguments import refused

    if str(column.dtype) in _NUMBERS and not column.null_count():
        return arrays.encode(arguments, column.to_numpy(), where)
    if not _listed(column.dtype):
        lost = " with nulls" if str(column.dtype) in _NUMBERS else ""
        msg = f"a column of dtype {column.dtype}{lost} would not arrive as one: convert it with `cast`"
        raise refused(msg, where)
    return arguments.items(column.to_list(), where)


def _listed(dtype: Any) -> bool:
    kind = str(dtype).partition("(")[0]
    if kind == "Struct":
        return all(_listed(field.dtype) for field in dtype.fields)
    return _listed(dtype.inner) if kind == "List" else kind in _LISTED


def decode(members: Mapping[str, Any], decoded: Callable[[Any], Any]) -> Any:
    """A frame of the package it was made with, where that is installed; else an object of columns. Raises BadReply."""
    columns, data = decoded(members["columns"]), decoded(members["data"])
    index = decoded(members["index"]) if "index" in members else None
    package = library(members["$frame"]) if members["$frame"] in _PACKAGES else None
    try:
        if package is None:
            return {"columns": columns, **({} if index is None else {"index": index}), "data": data}
        if members["$frame"] == "polars":
            return package.DataFrame(dict(zip(columns, data)), strict=False)
        # By position: labels may repeat.
        frame = package.DataFrame(dict(enumerate(data)), index=_labels(package, index))
        frame.columns = _labels(package, columns)
        return frame
    except (TypeError, ValueError) as exc:
        msg = f"the server's reply holds a data frame that is none: {exc}"
        raise BadReply(msg) from exc


def _labels(package: Any, labels: Any) -> Any:
    """Those of several levels are lists in JSON."""
    if type(labels) is not list:
        return labels
    return package.Index([tuple(label) if type(label) is list else label for label in labels])
