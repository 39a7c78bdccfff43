"""JSON taken apart and put together again, every number as the text it came as: no digit is lost, nor `NaN`."""

import json
from typing import Any

import msgspec
from msgspec import Raw

_decode = json.JSONDecoder(parse_int=Raw, parse_float=Raw, parse_constant=Raw).decode


def loads(text: bytes) -> Any:
    """What `json.loads` makes of it, with a `Raw` for each number. Raises `ValueError`, `RecursionError`."""
    return _decode(text.decode())


def dumps(value: Any) -> bytes:
    """JSON of what `loads` gave, whose parts may be `Raw` too. Raises `ValueError` (a lone surrogate), `RecursionError`."""
    return msgspec.json.encode(value)
