"""A file in memory that never grows past a bound."""

from __future__ import annotations

from io import BytesIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .room import Room


class Buffer(BytesIO):
    """Raises ReplyTooLarge at the write that would take more than there is room for."""

    def __init__(self, room: Room) -> None:
        super().__init__()
        self._room = room

    def write(self, data: Any) -> int:
        self._room.check(self.tell() + memoryview(data).nbytes)
        return super().write(data)
