"""Images and figures: what shows itself as PNG or SVG, by `_repr_png_` and the like (as in notebooks) or by `savefig`."""

from __future__ import annotations

from .kinds import names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Union

    from .room import Room

    Content = Union[bytes, memoryview]
    # Writes a value within a bound, in the form that the writer is for; None if it turns out not to have that form.
    Writer = Callable[[Room], Union[Content, None]]


def png(value: Any) -> Writer | None:
    return _writer(value, "png")


def svg(value: Any) -> Writer | None:
    return _writer(value, "svg")


def _writer(value: Any, form: str) -> Writer | None:
    if isinstance(value, type):
        return None
    if ("matplotlib", "Axes") in names(type(value)):
        value = value.figure
        value = getattr(value, "figure", value)  # of a figure inside another
    method = f"_repr_{form}_"
    if not hasattr(type(value), method) and not hasattr(type(value), "savefig"):
        return None
    return lambda room: _shown(value, method, room) or _saved(value, form, room)


def _shown(value: Any, method: str, room: Room) -> bytes | None:
    if not hasattr(type(value), method):
        return None
    shown = getattr(value, method)()
    if isinstance(shown, tuple):  # with metadata
        shown = shown[0]
    if isinstance(shown, str) and method == "_repr_svg_":
        from .text import utf8

        shown = utf8(shown)
    if not isinstance(shown, bytes):
        return None
    room.check(len(shown))
    return shown


def _saved(value: Any, form: str, room: Room) -> memoryview | None:
    if not hasattr(type(value), "savefig"):
        return None
    from .buffer import Buffer

    buffer = Buffer(room)
    value.savefig(buffer, format=form)
    return buffer.getbuffer()
