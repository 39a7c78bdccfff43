"""Images as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Image:
    """An image or figure that a call gave. `type` is its media type. Notebooks show it."""

    data: bytes
    type: str

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, bytes | str]:
        return {self.type: self.data.decode("utf-8", "replace") if self.type == "image/svg+xml" else self.data}

    def __repr__(self) -> str:
        return f"<Image {self.type}, {len(self.data)} bytes>"
