"""Calls as multipart/form-data: the part `call` is the JSON, the others are files that it names (RFC 7578).

Taken in as it arrives: small parts stay in memory, larger ones go to the spool, in threads; all to one file, so that a
form takes one descriptor however many parts it has.
"""

import asyncio
from collections.abc import Iterator, Mapping
from email.message import Message
from time import perf_counter

from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
)
from starlette.types import Receive, Scope

from orchestrator.api import parsing
from orchestrator.api.middleware import body_of, headers_of
from orchestrator.api.problems import MalformedRequest
from orchestrator.api.spool import Share, Spool, SpoolFile
from orchestrator.composition.crossing import window
from orchestrator.errors import InvalidRequest, PayloadTooLarge
from orchestrator.sandboxes.work import File
from orchestrator.settings import Settings

MEDIA_TYPE = b"multipart/form-data"
CALL = "call"

# A form is taken apart for so long at a time: parts cost more time than what is in them.
_TURN_S = 0.001
# Of each part, and of all; past it a part goes to the file, in pieces of the first size.
_PART_BYTES = 1024 * 1024
_FORM_BYTES = 16 * 1024 * 1024
# Of a part besides its bytes, until its request is done with.
_OF_A_PART_BYTES = 1024
_NAME_CHARACTERS = 200
# Of a form and of each part: to take one apart takes time that grows with its square.
_HEADER_BYTES = 2048
_BOUNDARY_CHARACTERS = 70  # RFC 2046, 5.1.1
_AS_IT_IS = frozenset({"", "binary", "8bit", "7bit"})


class Uploads:
    """Takes in bodies of calls that come with files. One for an app."""

    def __init__(self, settings: Settings) -> None:
        self.spool = Spool(settings)
        self._settings = settings
        self._turns = asyncio.Lock()

    async def take(self, scope: Scope, receive: Receive, owner: str) -> tuple[bytes, tuple[File, ...]]:
        """The call's JSON, and the files beside it, which count for `owner`.

        Raises: MalformedRequest, InvalidRequest; PayloadTooLarge, SpoolFull; ClientDisconnect.
        """
        body = body_of(scope)
        body.bound(self._settings.max_upload_bytes)
        form = _Form(self._settings, self.spool.of(owner), _boundary(headers_of(scope)))
        spent = 0.0  # of this turn
        async for chunk in parsing.chunks(receive):
            begun = perf_counter()
            for _ in form.steps(chunk):
                if form.overflows:
                    await asyncio.to_thread(form.spill)
                if spent + perf_counter() - begun >= _TURN_S:
                    body.hold(form.held)
                    await self._turn()
                    spent, begun = 0.0, perf_counter()
            body.hold(form.held)
            spent += perf_counter() - begun
        return await asyncio.to_thread(form.ended)

    async def _turn(self) -> None:
        """Wait for the next, behind other forms. Between any two of them all others go on, however many forms there are."""
        async with self._turns:
            await asyncio.sleep(0)


class _Part:
    """One part: what has come of it, in memory or else in the form's file."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.size = 0
        self.data = bytearray()
        self.begin: int | None = None  # in the file


class _Form:
    """The state of one body. `steps` do not block, the rest does."""

    def __init__(self, settings: Settings, spool: Share, boundary: bytes) -> None:
        self._settings = settings
        self._spool = spool
        self._parser = PushMultipartParser(boundary, max_header_size=_HEADER_BYTES)
        self._file: SpoolFile | None = None
        self._pending = bytearray()  # what goes to its end
        self._file_size = 0  # with that
        self._parts: dict[str, _Part] = {}
        self._part = _Part()
        self._count = 0
        self.held = 0  # bytes in memory

    @property
    def overflows(self) -> bool:
        """There is something to `spill`."""
        return len(self._pending) > _PART_BYTES

    def steps(self, chunk: bytes) -> Iterator[None]:
        """Take in the next of the body, in as many steps as there are things in it.

        Raises: MalformedRequest, InvalidRequest, PayloadTooLarge.
        """
        try:
            for event in self._parser.parse(chunk) if chunk else ():
                match event:
                    case MultipartSegment():
                        self._begin(event)
                    case bytes():
                        self._data(event)
                yield
        except MultipartError as exc:
            msg = f"the body is not multipart/form-data: in or after part {self._count} it is not as its boundary says"
            # The parser keeps it, and so the form and its file.
            raise MalformedRequest(msg) from exc.with_traceback(None)

    def spill(self) -> None:
        """Move what is to go to the file there. Raises: SpoolFull."""
        self._file = self._file or self._spool.open()
        self._file.append(self._pending)
        self.held -= len(self._pending)
        self._pending.clear()

    def ended(self) -> tuple[bytes, tuple[File, ...]]:
        """The call and its files. Raises: MalformedRequest: the form is cut off. InvalidRequest: there is no call. SpoolFull."""
        try:
            self._parser.close()
        except MultipartError as exc:
            msg = "the body ends before the form's last boundary"
            raise MalformedRequest(msg) from exc.with_traceback(None)
        call = self._parts.pop(CALL, None)
        if call is None:
            msg = f"the form has no part {CALL!r}: that is where the call's JSON goes"
            raise InvalidRequest(msg, field=CALL)
        if self._pending:
            self.spill()
        return bytes(call.data), tuple(self._taken(part) for part in self._parts.values())

    def _taken(self, part: _Part) -> File:
        if self._file is None or part.begin is None:
            return File(part.name, part.size, bytes(part.data))
        return File(part.name, part.size, window(self._file, part.begin, part.size))

    def _begin(self, segment: MultipartSegment) -> None:
        self._count += 1
        if self._count > self._settings.max_upload_parts:
            msg = f"the form has more than {self._settings.max_upload_parts} parts"
            raise InvalidRequest(msg)
        name = segment.name or ""
        if not 0 < len(name) <= _NAME_CHARACTERS:
            msg = f"part {self._count} has no name of 1 to {_NAME_CHARACTERS} characters in UTF-8"
            raise MalformedRequest(msg)
        if name in self._parts:
            msg = "there is more than one part of that name"
            raise InvalidRequest(msg, field=name)
        if segment.header("Content-Transfer-Encoding", "").strip().lower() not in _AS_IT_IS:
            msg = "a part with a Content-Transfer-Encoding is not accepted: send its bytes as they are"
            raise InvalidRequest(msg, field=name)
        self.held += _OF_A_PART_BYTES
        self._part = self._parts[name] = _Part(name)

    def _data(self, data: bytes) -> None:
        part = self._part
        part.data += data
        part.size += len(data)
        self.held += len(data)
        limit = self._settings.max_body_bytes
        if part.name == CALL and part.size > limit:
            msg = f"the part {CALL!r} is over the limit of {limit} bytes; what is large goes into other parts"
            raise PayloadTooLarge(msg, limit_bytes=limit)
        if part.name != CALL and (part.begin is not None or part.size > _PART_BYTES or self.held > _FORM_BYTES):
            self._defer(part)

    def _defer(self, part: _Part) -> None:
        """What has come of a part, and all that will, goes to the file, in one piece: no other comes between."""
        if part.begin is None:
            part.begin = self._file_size
        self._pending += part.data
        self._file_size += len(part.data)
        part.data.clear()


def _boundary(headers: Mapping[bytes, bytes]) -> bytes:
    head = Message()
    head["Content-Type"] = headers[b"content-type"][:_HEADER_BYTES].decode("latin-1")
    try:
        boundary = head.get_boundary("")
    except UnicodeError:  # of a charset that it names itself (RFC 2231), in which it is not
        boundary = ""
    if not 0 < len(boundary) <= _BOUNDARY_CHARACTERS or not (boundary.isascii() and boundary.isprintable()):
        msg = f"the Content-Type of a form names its boundary, of 1 to {_BOUNDARY_CHARACTERS} characters"
        raise MalformedRequest(msg)
    return boundary.encode()
