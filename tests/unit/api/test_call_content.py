"""Replies with content, as a client's own parser of forms reads them."""

from email import message_from_bytes
from email.message import Message
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api import accepting, call_content
from orchestrator.errors import SandboxLost
from orchestrator.sandboxes.content import Whole
from orchestrator.sandboxes.replies import InForm, Typed

pytestmark = pytest.mark.anyio

URL = "/environment/python/call"
CALL = {"sessionid": "s", "namepath": "a"}


class Pieces:
    """Content that comes in these pieces, and may break off."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self.size = sum(map(len, pieces))
        self.closed = False
        self._pieces = pieces
        self._error = error

    async def __aiter__(self) -> Any:
        for piece in self._pieces:
            yield piece
        if self._error is not None:
            raise self._error

    async def aclose(self) -> None:
        self.closed = True


def parts_of(content_type: str, body: bytes) -> list[tuple[Message, bytes]]:
    form = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    assert form.is_multipart(), body
    found = []
    for part in form.get_payload():
        assert isinstance(part, Message)
        found.append((part, part.get_payload(decode=True)))
    return found  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("form", "content_type"),
    [
        ("octets", "application/octet-stream"),
        ("text", "text/plain; charset=utf-8"),
        ("csv", "text/csv; charset=utf-8"),
        ("png", "image/png"),
        ("arrow", "application/vnd.apache.arrow.stream"),
        ("npy", "application/x-npy"),
    ],
)
async def test_a_bare_value_goes_out_as_it_comes_with_its_media_type(api: Any, form: str, content_type: str) -> None:
    content = Pieces(b"\x00\xff", b"abc")
    api.sessions.reply = InForm(form, "numpy.ndarray", 0.1, content)
    reply = await api.client.post(URL, json=CALL, headers={**await api.bearer(), "Accept": content_type})
    assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, b"\x00\xffabc", content_type)
    assert (reply.headers["content-length"], reply.headers["kodou-type"]) == ("5", "numpy.ndarray")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert (reply.headers["kodou-cold"], content.closed) == ("none", True)


async def test_an_image_that_may_hold_scripts_is_sandboxed(api: Any) -> None:
    api.sessions.reply = InForm("svg", "Figure", 0.1, Whole(b"<svg/>"))
    reply = await api.client.post(URL, json=CALL, headers={**await api.bearer(), "Accept": "image/svg+xml"})
    policies = reply.headers.get_list("content-security-policy")
    assert policies == ["default-src 'none'; frame-ancestors 'none'; sandbox"]


@pytest.mark.parametrize("type", ["", "a b", "x\r\nSet-Cookie: a=b", "naïve", "x" * 201, "a\x00"])
async def test_a_type_that_is_no_plain_name_is_not_told(api: Any, type: str) -> None:
    api.sessions.reply = InForm("text", type, 0.1, Whole(b"1"))
    reply = await api.client.post(URL, json=CALL, headers={**await api.bearer(), "Accept": "text/plain"})
    assert reply.status_code == 200
    assert "kodou-type" not in reply.headers
    assert "set-cookie" not in reply.headers


async def test_content_that_breaks_off_is_never_taken_for_whole(api: Any) -> None:
    content = Pieces(b"ab", error=SandboxLost("gone"))
    api.sessions.reply = InForm("octets", "bytes", 0.1, content)
    with pytest.raises(SandboxLost):  # out of the app: the server cuts the connection
        await _sent(InForm("octets", "bytes", 0.1, content))
    assert content.closed


async def _sent(reply: Typed | InForm) -> tuple[dict[bytes, bytes], bytes]:
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await call_content.send_content(send, reply, [])
    assert [message.get("more_body", False) for message in messages[1:]] == [True] * (len(messages) - 2) + [False]
    return dict(messages[0]["headers"]), b"".join(message["body"] for message in messages[1:])


@given(files=st.lists(st.binary(max_size=40), max_size=6), cuts=st.lists(st.integers(0, 240), max_size=8))
async def test_a_typed_reply_is_a_form_however_its_content_is_cut(files: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(files)
    ends = sorted({min(cut, len(whole)) for cut in cuts} | {0, len(whole)})
    content = Pieces(*(whole[begin:end] for begin, end in pairwise(ends)))
    names = [f"f{number}" for number in range(len(files))]
    body = b'{"error": false, "value": [{"$file": "f0"}]}'
    headers, sent = await _sent(
        Typed(body, tuple((name, len(file)) for name, file in zip(names, files, strict=True)), content)
    )
    assert int(headers[b"content-length"]) == len(sent)
    content_type = headers[b"content-type"].decode()
    assert content_type.startswith(accepting.MULTIPART)
    boundary = content_type.rpartition("=")[2].encode()
    pieces = (
        sent.removesuffix(b"\r\n--" + boundary + b"--\r\n").removeprefix(b"--" + boundary).split(b"\r\n--" + boundary)
    )
    found = [piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")[::2] for piece in pieces]
    assert [data for _, data in found] == [body, *files]
    for (head, data), name in zip(found, ["reply", *names], strict=True):
        part = message_from_bytes(head)
        assert part["content-disposition"] == f'form-data; name="{name}"'
        assert int(part["content-length"]) == len(data)
        assert part["content-type"] == ("application/json" if name == "reply" else "application/octet-stream")
    assert content.closed


async def test_a_typed_reply_is_read_by_the_standard_library(api: Any) -> None:
    body = b'{"error": false, "value": {"$file": "f0"}}'
    api.sessions.reply = Typed(body, (("f0", 3),), Pieces(b"\x01\x02\x03"))
    reply = await api.client.post(URL, json=CALL, headers={**await api.bearer(), "Accept": "multipart/form-data"})
    assert reply.status_code == 200
    told, file = parts_of(reply.headers["content-type"], reply.content)
    assert (told[0].get_content_type(), told[1]) == ("application/json", body)
    assert (file[0].get_param("name", header="content-disposition"), file[1]) == ("f0", b"\x01\x02\x03")


async def test_each_reply_has_a_boundary_of_its_own() -> None:
    boundaries = {(await _sent(Typed(b"{}", (), Whole(b""))))[0][b"content-type"] for _ in range(10)}
    assert len(boundaries) == 10
