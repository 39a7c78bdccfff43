"""pandas and polars -> JSON: {"columns", "index"?, "data"}, data by rows. Neither is ever imported here."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .rendering import Renderer


def _frame(renderer: Renderer, value: Any) -> dict[str, Any]:
    # Columns by position: their labels may repeat.
    return {
        "columns": renderer.render(value.columns.tolist()),
        **_index(renderer, value.index),
        "data": _rows(renderer, [value.iloc[:, i].tolist() for i in range(value.shape[1])], len(value)),
    }


def _series(renderer: Renderer, value: Any) -> dict[str, Any]:
    return {
        "name": renderer.render(value.name),
        **_index(renderer, value.index),
        "data": renderer.render(value.tolist()),
    }


def _index(renderer: Renderer, index: Any) -> dict[str, Any]:
    return {} if counts(index) else {"index": renderer.render(index.tolist())}


def counts(index: Any) -> bool:
    """Whether an index is the one that pandas makes by itself: 0, 1, 2, …"""
    return type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1 and index.name is None


def _polars_frame(renderer: Renderer, value: Any) -> dict[str, Any]:
    columns = [column.to_list() for column in value.get_columns()]
    return {"columns": value.columns, "data": _rows(renderer, columns, value.height)}


def _polars_series(renderer: Renderer, value: Any) -> dict[str, Any]:
    return {"name": value.name, "data": renderer.render(value.to_list())}


def _rows(renderer: Renderer, columns: list[list[Any]], height: int) -> list[Any]:
    """Columns are of one type each, so they are rendered as such, and turned only then."""
    renderer.spend(2 * height)
    if not columns:
        return [[] for _ in range(height)]
    return list(zip(*[renderer.render(column) for column in columns]))


def _to_list(renderer: Renderer, value: Any) -> Any:
    return renderer.render(value.tolist())


def _str(_: Renderer, value: Any) -> str:
    return str(value)


def _null(_: Renderer, __: Any) -> None:
    return None


KNOWN: dict[tuple[str, str], Callable[[Renderer, Any], Any]] = {
    ("pandas", "DataFrame"): _frame,
    ("pandas", "Series"): _series,
    ("pandas", "Index"): _to_list,
    ("pandas", "ExtensionArray"): _to_list,
    ("pandas", "NaTType"): _null,
    ("pandas", "NAType"): _null,
    ("pandas", "Period"): _str,
    ("pandas", "Interval"): _str,
    ("polars", "DataFrame"): _polars_frame,
    ("polars", "Series"): _polars_series,
}
