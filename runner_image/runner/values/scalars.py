"""Single values of the standard library -> JSON."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .images import Writer
    from .rendering import Renderer
    from .room import Room


def duration(ticks: int, per_second: int) -> str:
    """ISO 8601 for so many ticks, of which a power of ten make a second: "P1DT2H3M4.5S", "-PT0.000001S", "PT0S"."""
    sign = "-" if ticks < 0 else ""
    seconds, fraction = divmod(abs(ticks), per_second)
    days, seconds = divmod(seconds, 86_400)
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    date = f"{days}D" if days else ""
    time = (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "")
    if fraction:
        digits = len(str(per_second)) - 1
        time += f"{seconds}.{fraction:0{digits}d}".rstrip("0") + "S"
    elif seconds or not (date or time):
        time += f"{seconds}S"
    return f"{sign}P{date}{'T' + time if time else ''}"


def _timedelta(_: Renderer, value: Any) -> str:
    # (pandas.Timedelta adds nanoseconds.)
    microseconds = (value.days * 86_400 + value.seconds) * 10**6 + value.microseconds
    return duration(microseconds * 1000 + getattr(value, "nanoseconds", 0), 10**9)


def _bytes(renderer: Renderer, value: Any) -> dict[str, str]:
    return {"$bytes": base64(renderer, value)}


def base64(renderer: Renderer, value: Any) -> str:
    from binascii import b2a_base64

    data = memoryview(value)
    renderer.spend(data.nbytes * 4 // 3)
    return b2a_base64(data.tobytes(), newline=False).decode()


def _isoformat(_: Renderer, value: Any) -> str:
    return str(value.isoformat())


def _str(_: Renderer, value: Any) -> str:
    return str.__str__(str(value))  # `__str__` may return a subclass


KNOWN: dict[tuple[str, str], Callable[[Renderer, Any], Any]] = {
    # Of subclasses: the bare number or text, past methods of theirs.
    ("builtins", "int"): lambda _, value: int.__pos__(value),
    ("builtins", "float"): lambda _, value: float.__pos__(value),
    ("builtins", "str"): lambda _, value: str.__str__(value),
    ("builtins", "complex"): lambda _, value: [value.real, value.imag],
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytes,
    ("builtins", "memoryview"): _bytes,
    ("array", "array"): lambda renderer, value: renderer.items(value.tolist()),
    ("collections", "UserString"): _str,
    ("datetime", "date"): _isoformat,
    ("datetime", "time"): _isoformat,
    ("datetime", "timedelta"): _timedelta,
    ("decimal", "Decimal"): _str,
    ("fractions", "Fraction"): _str,
    ("pathlib", "PurePath"): _str,
    ("uuid", "UUID"): _str,
}


def _text(value: Any) -> Writer:
    from .text import utf8

    return lambda room: utf8(_checked(str(value), room))


def _own_text(value: Any) -> Writer:
    from .text import utf8

    return lambda room: utf8(_checked(str.__str__(value), room))


def _checked(text: str, room: Room) -> str:
    room.check(len(text))
    return text


def _no_text(_: Any) -> None:
    return None


# What has the form of a plain text.
TEXT: dict[tuple[str, str], Callable[[Any], Writer | None]] = {
    ("builtins", "str"): _own_text,
    ("builtins", "bytes"): _no_text,
    ("numpy", "void"): _no_text,
    **dict.fromkeys(
        (
            ("builtins", "int"),
            ("builtins", "float"),
            ("builtins", "complex"),
            ("collections", "UserString"),
            ("datetime", "date"),
            ("datetime", "time"),
            ("datetime", "timedelta"),
            ("decimal", "Decimal"),
            ("fractions", "Fraction"),
            ("pathlib", "PurePath"),
            ("uuid", "UUID"),
            ("numpy", "generic"),
            ("pandas", "Period"),
            ("pandas", "Interval"),
        ),
        _text,
    ),
}
