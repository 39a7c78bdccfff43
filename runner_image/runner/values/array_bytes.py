"""numpy arrays as bytes, and back: elements in C order, little-endian. numpy is imported only to make an array."""

from __future__ import annotations

import sys

from ..refusal import InvalidRequest
from .buffer import Buffer
from .kinds import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

    from .images import Content, Writer
    from .room import Room

# dtype kinds whose bytes mean the same everywhere: booleans, numbers, dates, durations, texts.
_KINDS = frozenset("biufcMmSU")
# In bytes. Longer floats differ from machine to machine.
_LONGEST = {"f": 8, "c": 16}
_MAX_DIMENSIONS = 32
_MAX_DTYPE = 100  # characters


def tag(array: Any, part: str) -> dict[str, Any]:
    """`{"$array", "dtype", "shape"}` of a portable array whose bytes are the file `part`."""
    return {"$array": part, "dtype": array.dtype.newbyteorder("<").str, "shape": list(array.shape)}


def portable(value: Any) -> Any:
    """An array whose bytes mean the same everywhere; None where its elements have no such bytes, or are masked."""
    numpy = sys.modules["numpy"]
    if _masked(value):
        return None
    array = numpy.asarray(value)
    dtype = array.dtype
    if dtype.kind not in _KINDS:
        return None
    if dtype.itemsize > _LONGEST.get(dtype.kind, dtype.itemsize):
        return array.astype(f"{dtype.kind}{_LONGEST[dtype.kind]}")
    return array.astype(f"{dtype.kind}1") if dtype.itemsize == 0 else array


def _masked(value: Any) -> bool:
    return ("numpy", "MaskedArray") in names(type(value))


def raw(array: Any, room: Room) -> memoryview:
    """The bytes of a portable array; its own memory where that is in order already."""
    numpy = sys.modules["numpy"]
    room.check(array.nbytes)
    ordered = numpy.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return memoryview(ordered.reshape(-1).view("u1"))


def flat(data: memoryview) -> Content:
    """The bytes of any memory; itself where they are in order already."""
    if data.c_contiguous and data.nbytes:
        return data.cast("B")
    return data.tobytes()


def octets(value: Any) -> Writer | None:
    array = portable(value)
    return None if array is None else lambda room: raw(array, room)


def npy(value: Any) -> Writer | None:
    """A `.npy` file of an array or of a numpy scalar."""
    numpy = sys.modules["numpy"]
    array = numpy.asarray(value)
    if _masked(value) or array.dtype.hasobject:
        return None

    def write(room: Room) -> memoryview:
        room.check(array.nbytes)
        buffer = Buffer(room)
        numpy.save(buffer, array, allow_pickle=False)
        return buffer.getbuffer()

    return write


def array(members: Mapping[str, Any], file: memoryview, field: str) -> Any:
    """The array that the members `dtype` and `shape` of a `$array` make of a file: writable, with memory of its own.

    Raises: InvalidRequest, with the field.
    """
    numpy = _numpy(field)
    dtype = _dtype(numpy, members["dtype"], field + ".dtype")
    shape = _shape(members["shape"], field + ".shape")
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size != len(file):
        msg = f"an array of shape {shape} and dtype {dtype.str!r} has {size} bytes, and the file has {len(file)}"
        raise InvalidRequest(msg, field)
    try:
        return numpy.ndarray(shape, dtype, buffer=file).copy()
    except (ValueError, OverflowError) as exc:  # one length is 0, and another is past all bounds
        msg = f"numpy makes no array of shape {shape}: {exc}"
        raise InvalidRequest(msg, field + ".shape") from None


def _numpy(field: str) -> Any:
    try:
        import numpy
    except ImportError:
        msg = "an array needs numpy, which is not in the environment"
        raise InvalidRequest(msg, field) from None
    return numpy


def _dtype(numpy: Any, text: Any, field: str) -> Any:
    if type(text) is not str or len(text) > _MAX_DTYPE:
        msg = "the dtype of an array has to be a string, like '<f8'"
        raise InvalidRequest(msg, field)
    try:
        dtype = numpy.dtype(text)
    except (TypeError, ValueError, SyntaxError):
        msg = f"{text!r} is no dtype"
        raise InvalidRequest(msg, field) from None
    if dtype.kind not in _KINDS or not 0 < dtype.itemsize <= _LONGEST.get(dtype.kind, dtype.itemsize):
        msg = (
            f"arrays of dtype {text!r} are not taken: booleans, numbers of at most 8 bytes (complex: 16), dates, texts"
        )
        raise InvalidRequest(msg, field)
    if dtype != dtype.newbyteorder("<"):
        msg = f"an array has to be little-endian, and {text!r} is not"
        raise InvalidRequest(msg, field)
    return dtype


def _shape(shape: Any, field: str) -> list[int]:
    if type(shape) is not list or not all(type(length) is int and length >= 0 for length in shape):
        msg = "the shape of an array has to be a list of integers that are not negative"
        raise InvalidRequest(msg, field)
    if len(shape) > _MAX_DIMENSIONS:
        msg = f"an array has at most {_MAX_DIMENSIONS} dimensions"
        raise InvalidRequest(msg, field)
    return shape
