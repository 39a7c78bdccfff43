"""numpy scalars and arrays of any dtype -> JSON, shape kept as nesting. numpy itself is never imported here."""

from __future__ import annotations

import sys

from .scalars import duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .rendering import Renderer

# dtype kinds whose `tolist` is JSON at once, and the largest floats for which it is.
_PLAIN = frozenset("biu")
_FLOAT_BYTES = 8
# Units of timedelta64: how many ticks each is, and how many of those make a second.
_UNITS = {
    "W": (604_800, 1),
    "D": (86_400, 1),
    "h": (3600, 1),
    "m": (60, 1),
    "s": (1, 1),
    "ms": (1, 10**3),
    "us": (1, 10**6),
    "ns": (1, 10**9),
    "ps": (1, 10**12),
    "fs": (1, 10**15),
    "as": (1, 10**18),
}
_CALENDAR = frozenset("YM")


def _array(renderer: Renderer, value: Any) -> Any:
    numpy = sys.modules["numpy"]
    array = numpy.asarray(value)
    renderer.spend(2 * array.size)
    kind = array.dtype.kind
    if kind in _PLAIN:
        return array.tolist()
    if kind == "f":
        return (array if array.dtype.itemsize <= _FLOAT_BYTES else array.astype("f8")).tolist()
    if kind == "c":
        return numpy.stack((array.real, array.imag), axis=-1).astype("f8").tolist()
    if kind == "M":
        return numpy.where(numpy.isnat(array), None, numpy.datetime_as_string(array).astype(object)).tolist()
    if kind == "m":
        return _durations(numpy, array)
    if kind == "V" and array.dtype.names is not None:
        return _records(renderer, numpy, array)
    if kind == "V" and not issubclass(
        array.dtype.type, numpy.void
    ):  # a dtype of another package: bfloat16 and the like
        return array.astype("f8").tolist()
    return renderer.render(array.tolist())  # objects, strings, bytes: their elements are not JSON's yet


def _durations(numpy: Any, array: Any) -> Any:
    unit, count = numpy.datetime_data(array.dtype)

    def render(ticks: int) -> Any:
        if unit in _CALENDAR:  # years and months, which are no number of seconds
            return f"{'-' if ticks < 0 else ''}P{abs(ticks) * count}{unit}"
        if unit not in _UNITS:  # "generic": a bare number
            return ticks
        factor, per_second = _UNITS[unit]
        return duration(ticks * count * factor, per_second)

    rendered = numpy.empty(array.shape, dtype=object)
    rendered.reshape(-1)[:] = [render(ticks) for ticks in array.astype("i8").reshape(-1).tolist()]
    return numpy.where(numpy.isnat(array), None, rendered).tolist()


def _records(renderer: Renderer, numpy: Any, array: Any) -> Any:
    names = array.dtype.names
    columns = [_array(renderer, array[name].reshape(array.size, *array[name].shape[array.ndim :])) for name in names]
    records = numpy.empty(array.size, dtype=object)
    rows: Any = zip(*columns) if columns else [()] * array.size
    records[:] = [renderer.escaped(dict(zip(names, row))) for row in rows]
    return records.reshape(array.shape).tolist()


def _masked(renderer: Renderer, value: Any) -> Any:
    """A masked array, with null for what is masked."""
    numpy = sys.modules["numpy"]
    return _without(_array(renderer, value.data), numpy.ma.getmaskarray(value).tolist())


def _without(data: Any, mask: Any) -> Any:
    if mask is True:
        return None
    if mask is False:
        return data
    if isinstance(mask, tuple):  # one for each field of a record
        return {name: _without(part, masked) for (name, part), masked in zip(data.items(), mask)}
    return [_without(part, masked) for part, masked in zip(data, mask)]


KNOWN: dict[tuple[str, str], Callable[[Renderer, Any], Any]] = {
    ("numpy", "generic"): _array,
    ("numpy", "ndarray"): _array,
    ("numpy", "MaskedArray"): _masked,
}
