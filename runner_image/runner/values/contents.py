"""The forms of a value other than JSON: whether a value has one shows at once, what it is only when it is written."""

from __future__ import annotations

from . import array_bytes, arrow, comma_separated, images, scalars
from .kinds import known, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping

    from .images import Writer
    from .room import Room

    Find = Callable[[Any], "Writer | None"]


def find(value: Any, form: str) -> Writer | None:
    """What writes a value in one of `FORMS`; None: it does not have that form."""
    while ("enum", "Enum") in names(type(value)):  # as in JSON, what it stands for
        value = value.value
    return FORMS[form](value)


def _by_name(table: Mapping[tuple[str, str], Find]) -> Find:
    def find(value: Any) -> Writer | None:
        found = known(type(value), table)
        return None if found is None else found(value)

    return find


def _octets(value: Any) -> Writer:
    data = memoryview(value)

    def write(room: Room) -> Any:
        room.check(data.nbytes)
        return array_bytes.flat(data)

    return write


FORMS: dict[str, Find] = {
    "octets": _by_name(
        {
            ("builtins", "bytes"): _octets,
            ("builtins", "bytearray"): _octets,
            ("builtins", "memoryview"): _octets,
            ("array", "array"): _octets,
            ("numpy", "ndarray"): array_bytes.octets,
        }
    ),
    "text": _by_name(scalars.TEXT),
    "csv": comma_separated.find,
    "png": images.png,
    "svg": images.svg,
    "arrow": _by_name(arrow.KNOWN),
    "npy": _by_name({("numpy", "ndarray"): array_bytes.npy, ("numpy", "generic"): array_bytes.npy}),
}
