"""A reply in typed form as it comes in: the head of its files is read, the files themselves are left to whoever wants them."""

from collections.abc import AsyncIterator

from runner.frames import ENVELOPE

from orchestrator.sandboxes.content import Content
from orchestrator.sandboxes.replies import Malformed, Typed, read_file_head


async def read_typed(body: bytes, content: Content) -> Typed:
    """Raises `Malformed`; `SandboxLost`: the runner stopped before the head had come."""
    pieces = aiter(content)
    try:
        start, rest = await _split(b"", pieces, ENVELOPE.size)
        (length,) = ENVELOPE.unpack(start)
        if length > content.size - ENVELOPE.size:
            msg = "the head of a reply's files is longer than the reply"
            raise Malformed(msg)
        head, rest = await _split(rest, pieces, length)
        size = content.size - ENVELOPE.size - length
        return Typed(body, read_file_head(head, size), _Files(size, rest, pieces, content))
    except BaseException:
        await content.aclose()
        raise


async def _split(data: bytes, pieces: AsyncIterator[bytes], count: int) -> tuple[bytes, bytes]:
    """The first `count` bytes, and what came with them. Raises `Malformed` where they do not come."""
    taken = [data]
    missing = count - len(data)
    while missing > 0:
        piece = await anext(pieces, None)
        if piece is None:
            msg = "a reply's files end before they begin"
            raise Malformed(msg)
        taken.append(piece)
        missing -= len(piece)
    whole = b"".join(taken)
    return whole[:count], whole[count:]


class _Files:
    """The `Content` that follows the head."""

    def __init__(self, size: int, first: bytes, pieces: AsyncIterator[bytes], content: Content) -> None:
        self.size = size
        self._first = first
        self._pieces = pieces
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            first, self._first = self._first, b""
            if first:
                yield first
            async for piece in self._pieces:
                yield piece
        finally:
            await self._content.aclose()

    async def aclose(self) -> None:
        await self._content.aclose()
