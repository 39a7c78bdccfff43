"""Replies with content: a bare value in a form of its own, or a typed one as multipart/form-data, streamed as it comes."""

import re
import secrets
from collections.abc import AsyncIterator, Iterator

from starlette.types import Send

from orchestrator.api.accepting import MEDIA_TYPES, MULTIPART
from orchestrator.api.problems import SECURITY_HEADERS, Header
from orchestrator.sandboxes.replies import InForm, Typed

TYPE = b"kodou-type"

_CONTENT_TYPES = {
    form: (media_type + ("; charset=utf-8" if media_type.startswith("text/") else "")).encode()
    for form, media_type in MEDIA_TYPES.items()
}
# No header holds bytes of a runner that were not looked at: a type that is named otherwise is not told.
_TYPE_NAME = re.compile(r"[!-~]{1,200}")
# This kind of image may hold scripts: opened as a page, it is one that runs nothing and has no origin.
_SANDBOXED: list[Header] = [
    (name, value + b"; sandbox") for name, value in SECURITY_HEADERS if name == b"content-security-policy"
]


async def send_content(send: Send, reply: Typed | InForm, headers: list[Header]) -> None:
    """The reply with these headers besides its own. No faster than the client reads, and never held whole.

    A client that leaves has the rest read into nothing: the session cannot go on before its end.

    Raises: SandboxLost: the runner stopped inside the content.
    """
    shape = _Bare(reply) if isinstance(reply, InForm) else _Form(reply)
    try:
        await send({"type": "http.response.start", "status": 200, "headers": [*shape.headers(), *headers]})
        async for piece in shape.pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await reply.content.aclose()


class _Bare:
    """A value in another form than JSON, with nothing around it."""

    def __init__(self, reply: InForm) -> None:
        self._reply = reply

    def headers(self) -> list[Header]:
        form, content = self._reply.form, self._reply.content
        headers = [(b"content-type", _CONTENT_TYPES[form]), (b"content-length", str(content.size).encode("ascii"))]
        if _TYPE_NAME.fullmatch(self._reply.type):
            headers.append((TYPE, self._reply.type.encode("ascii")))
        return headers + _SANDBOXED if form == "svg" else headers

    def pieces(self) -> AsyncIterator[bytes]:
        return aiter(self._reply.content)


class _Form:
    """A typed reply: the part `reply`, then its files."""

    def __init__(self, reply: Typed) -> None:
        self._reply = reply
        # Random, so that no runner can write it: what it sends cannot begin a part.
        self._boundary = secrets.token_hex(16)
        self._opening = self._head("reply", "application/json", len(reply.body)).lstrip(b"\r\n") + reply.body
        self._closing = f"\r\n--{self._boundary}--\r\n".encode("ascii")

    def headers(self) -> list[Header]:
        heads = sum(len(head) for _, head in self._marks())
        size = len(self._opening) + heads + self._reply.content.size + len(self._closing)
        return [
            (b"content-type", f"{MULTIPART}; boundary={self._boundary}".encode("ascii")),
            (b"content-length", str(size).encode("ascii")),
        ]

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self._opening
        marks = self._marks()
        next_mark = next(marks, None)
        position = 0
        async for piece in self._reply.content:
            woven, begin = [], 0
            while next_mark is not None and next_mark[0] < position + len(piece):
                woven += [piece[begin : next_mark[0] - position], next_mark[1]]
                begin = next_mark[0] - position
                next_mark = next(marks, None)
            position += len(piece)
            yield b"".join([*woven, piece[begin:]]) if woven else piece
        rest = [] if next_mark is None else [next_mark[1], *(head for _, head in marks)]  # files of no bytes
        yield b"".join([*rest, self._closing])

    def _marks(self) -> Iterator[tuple[int, bytes]]:
        """Where in the content each file begins, and the head that goes before it."""
        begin = 0
        for name, size in self._reply.files:
            yield begin, self._head(name, "application/octet-stream", size)
            begin += size

    def _head(self, name: str, media_type: str, size: int) -> bytes:
        return (
            f'\r\n--{self._boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n'
            f"Content-Type: {media_type}\r\nContent-Length: {size}\r\n\r\n"
        ).encode("ascii")
