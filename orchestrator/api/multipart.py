"""Calls as multipart/form-data: the part `call` is the JSON, the others are files that it names (RFC 7578).

Taken in as it arrives: small parts stay in memory, larger ones go to the spool, in threads; all to one file, so that a
form takes one descriptor however many parts it has.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from orchestrator.api import parsing
from orchestrator.api.middleware import body_of, headers_of
from orchestrator.api.problems import MalformedRequest
from orchestrator.api.spool import Share, Spool, SpoolFile
from orchestrator.composition.crossing import window
from orchestrator.errors import InvalidRequest, PayloadTooLarge
from orchestrator.sandboxes.work import File
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MEDIA_TYPE = b"multipart/form-data"
CALL = "call"

# A form of more parts than this is taken apart in turns of so many bytes, as parts cost more time than what is in them.
_MANY_PARTS = 64
_TURN_BYTES = 8 * 1024
# Of each part, and of all; past it a part goes to the file, in pieces of the first size.
_PART_BYTES = 1024 * 1024
_FORM_BYTES = 16 * 1024 * 1024
# Of a part besides its bytes, until its request is done with.
_OF_A_PART_BYTES = 1024
_NAME_CHARACTERS = 200
# Of a form and of each part: to take one apart takes time that grows with its square.
_HEADER_BYTES = 2048
_BOUNDARY_CHARACTERS = 70  # RFC 2046, 5.1.1
_AS_IT_IS = frozenset({b"", b"binary", b"8bit", b"7bit"})


class Uploads:
    """Takes in bodies of calls that come with files. One for an app."""

    def __init__(self, settings: Settings) -> None:
        self.spool = Spool(settings)
        self._settings = settings

    async def take(self, scope: Scope, receive: Receive, owner: str) -> tuple[bytes, tuple[File, ...]]:
        """The call's JSON, and the files beside it, which count for `owner`.

        Raises: MalformedRequest, InvalidRequest; PayloadTooLarge, SpoolFull; ClientDisconnect.
        """
        body = body_of(scope)
        body.bound(self._settings.max_upload_bytes)
        form = _Form(self._settings, self.spool.of(owner))
        # Apart from the form: neither may keep the other, and files, from going when they are done with.
        parser = MultipartParser(_boundary(headers_of(scope)), form.callbacks(), max_header_size=_HEADER_BYTES)
        async for chunk in parsing.chunks(receive):
            begin = 0
            while begin < len(chunk):
                end = begin + (_TURN_BYTES if form.count > _MANY_PARTS else len(chunk))
                form.feed(parser, chunk[begin:end])
                if form.overflows:
                    await asyncio.to_thread(form.spill)
                body.hold(form.held)
                begin = end
                if begin < len(chunk):
                    await asyncio.sleep(0)
        return await asyncio.to_thread(form.ended)


class _Part:
    """One part: what has come of it, in memory or else in the form's file."""

    def __init__(self) -> None:
        self.name = ""
        self.size = 0
        self.data = bytearray()
        self.begin: int | None = None  # in the file


class _Form:
    """The state of one body. `feed` does not block, the rest does."""

    def __init__(self, settings: Settings, spool: Share) -> None:
        self._settings = settings
        self._spool = spool
        self._file: SpoolFile | None = None
        self._pending = bytearray()  # what goes to its end
        self._file_size = 0  # with that
        self._parts: dict[str, _Part] = {}
        self._part = _Part()
        self._headers: dict[bytes, bytes] = {}  # of that part
        self.count = 0
        self._header = b""
        self._value = b""
        self._complete = False
        self.held = 0  # bytes in memory

    @property
    def overflows(self) -> bool:
        """There is something to `spill`."""
        return len(self._pending) > _PART_BYTES

    def feed(self, parser: MultipartParser, chunk: bytes) -> None:
        """Raises: MalformedRequest, InvalidRequest, PayloadTooLarge."""
        try:
            parser.write(chunk)
        except FormParserError as exc:
            msg = f"the body is not multipart/form-data: in or after part {self.count} it is not as its boundary says"
            raise MalformedRequest(msg) from exc

    def spill(self) -> None:
        """Move what is to go to the file there. Raises: SpoolFull."""
        self._file = self._file or self._spool.open()
        self._file.append(self._pending)
        self.held -= len(self._pending)
        self._pending.clear()

    def ended(self) -> tuple[bytes, tuple[File, ...]]:
        """The call and its files. Raises: MalformedRequest: the form is cut off. InvalidRequest: there is no call. SpoolFull."""
        if not self._complete:
            msg = "the body ends before the form's last boundary"
            raise MalformedRequest(msg)
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

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._named,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self.count += 1
        if self.count > self._settings.max_upload_parts:
            msg = f"the form has more than {self._settings.max_upload_parts} parts"
            raise InvalidRequest(msg)
        self.held += _OF_A_PART_BYTES
        self._part = _Part()
        self._headers.clear()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _named(self) -> None:
        part = self._part
        part.name = self._name(self._headers)
        if part.name in self._parts:
            msg = "there is more than one part of that name"
            raise InvalidRequest(msg, field=part.name)
        if self._headers.get(b"content-transfer-encoding", b"").strip().lower() not in _AS_IT_IS:
            msg = "a part with a Content-Transfer-Encoding is not accepted: send its bytes as they are"
            raise InvalidRequest(msg, field=part.name)
        self._parts[part.name] = part

    def _name(self, headers: Mapping[bytes, bytes]) -> str:
        _, parameters = parse_options_header(headers.get(b"content-disposition"))
        try:
            name = parameters.get(b"name", b"").decode()
        except UnicodeDecodeError:
            name = ""
        if not 0 < len(name) <= _NAME_CHARACTERS:
            msg = f"part {self.count} has no name of 1 to {_NAME_CHARACTERS} characters in UTF-8"
            raise MalformedRequest(msg)
        return name

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        part.data += memoryview(data)[start:end]
        part.size += end - start
        self.held += end - start
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

    def _end(self) -> None:
        self._complete = True


def _boundary(headers: Mapping[bytes, bytes]) -> bytes:
    _, parameters = parse_options_header(headers[b"content-type"][:_HEADER_BYTES])
    boundary = parameters.get(b"boundary", b"")
    if not 0 < len(boundary) <= _BOUNDARY_CHARACTERS:
        msg = f"the Content-Type of a form names its boundary, of 1 to {_BOUNDARY_CHARACTERS} characters"
        raise MalformedRequest(msg)
    return boundary
