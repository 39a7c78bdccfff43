"""Images and figures -> {"$image": base64, "type": "image/png"}."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .values import Renderer


def render(value: Any) -> dict[str, str] | None:
    """What shows itself as a PNG: by `_repr_png_` (as in notebooks) or by `savefig`. None: it does not."""
    if isinstance(value, type):
        return None
    if hasattr(type(value), "_repr_png_"):
        shown = value._repr_png_()
        data = shown[0] if isinstance(shown, tuple) else shown  # with metadata
        if isinstance(data, bytes):
            return _image(data)
    if hasattr(type(value), "savefig"):
        return _figure(value)
    return None


def _figure(value: Any) -> dict[str, str]:
    from io import BytesIO

    buffer = BytesIO()
    value.savefig(buffer, format="png")
    return _image(buffer.getvalue())


def _axes(_: Renderer, value: Any) -> dict[str, str]:
    return _figure(value.figure)


def _image(data: bytes) -> dict[str, str]:
    from binascii import b2a_base64

    return {"$image": b2a_base64(data, newline=False).decode(), "type": "image/png"}


KNOWN: dict[tuple[str, str], Callable[[Renderer, Any], Any]] = {("matplotlib", "Axes"): _axes}
