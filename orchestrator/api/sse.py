"""Server-sent events: how one is written, and what fills the silence between two."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE_S = 15.0  # proxies close a silent connection after 30 to 60 s

# JSON has no line feeds but between its tokens, where they mean nothing; and some readers know further line ends.
_LINE_ENDS = b"\r\n"
_FURTHER_LINE_ENDS = tuple((end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\x85\u2028\u2029")


def sent(event: str, data: bytes) -> bytes:
    """One event. `data` is JSON in UTF-8."""
    if not data.isascii():
        for end, escape in _FURTHER_LINE_ENDS:
            data = data.replace(end, escape)
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data.translate(None, _LINE_ENDS))


async def with_silences(events: AsyncIterator[T], after_s: float) -> AsyncIterator[T | None]:
    """The events, and None each time that none came for `after_s`."""
    coming: asyncio.Task[T] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            if not (await asyncio.wait({coming}, timeout=after_s))[0]:
                yield None
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield event
    finally:
        if coming is not None:
            coming.cancel()
