"""numpy arrays and scalars <-> tags. numpy is imported only where it is installed, and only for an array."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from kodou.errors import BadReply

if TYPE_CHECKING:
    from kodou.arguments import Arguments, Where

# dtype kinds whose bytes mean the same everywhere: booleans, numbers, dates, durations, texts.
_KINDS = frozenset("biufcMmSU")
# In bytes. Longer floats differ from machine to machine.
_LONGEST = {"f": 8, "c": 16}


def portable(array: Any) -> bool:
    """Whether its bytes can go as they are and mean the same there."""
    dtype = array.dtype
    return dtype.kind in _KINDS and 0 < dtype.itemsize <= _LONGEST.get(dtype.kind, dtype.itemsize)


def encode(arguments: Arguments, array: Any, where: Where) -> dict[str, Any]:
    """An array as a file. Raises TypeError: its elements have no bytes of their own, or some are masked."""
    from kodou.arguments import refused

    numpy = sys.modules["numpy"]
    if isinstance(array, numpy.ma.MaskedArray):
        msg = "a masked array would lose its mask: send its data and its mask"
        raise refused(msg, where)
    if not portable(array):
        msg = f"an array of dtype {array.dtype} would not arrive as one: convert it with `astype`"
        raise refused(msg, where)
    dtype = array.dtype.newbyteorder("<")
    ordered = numpy.ascontiguousarray(array, dtype=dtype)
    name = arguments.attach(memoryview(ordered.reshape(-1).view("u1")))
    return {"$array": name, "dtype": dtype.str, "shape": list(array.shape)}


def encode_scalar(arguments: Arguments, scalar: Any, where: Where) -> Any:
    """A numpy number or text as Python's own. Raises TypeError: Python has none that is the same."""
    from kodou.arguments import refused

    value = scalar.item()
    if scalar.dtype.kind not in "biufSU" or type(value) is type(scalar):  # `longdouble` gives itself
        msg = f"a numpy.{type(scalar).__name__} would not arrive as one: send an array of it"
        raise refused(msg, where)
    return arguments.encode(value, where)


def decode(members: Mapping[str, Any], file: BytesIO) -> Any:
    """A writable array, whose memory is the file's. Raises BadReply."""
    import numpy as np

    try:
        dtype = np.dtype(members["dtype"])
        if dtype.hasobject:
            msg = "an array of objects"
            raise ValueError(msg)
        return np.frombuffer(file.getbuffer(), dtype).reshape(members["shape"])
    except (TypeError, ValueError) as exc:
        msg = f"the server's reply holds an array that is none: {exc}"
        raise BadReply(msg) from exc
