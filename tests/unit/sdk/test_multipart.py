"""Forms: what goes out can be read by others, what comes in is read or refused."""

from collections.abc import Collection
from contextlib import suppress
from io import BytesIO
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kodou.errors import BadReply
from kodou.multipart import FormReader, form
from multipart import MultipartParser  # type: ignore[import-untyped]

CONTENT_TYPE = 'multipart/form-data; boundary="b1"'


def part(name: str, data: bytes) -> bytes:
    head = f'--b1\r\nContent-Disposition: form-data; name="{name}"\r\nContent-Length: {len(data)}\r\n\r\n'
    return head.encode() + data + b"\r\n"


@given(st.binary(), st.lists(st.binary(), max_size=3))
@example(b"{}", [bytes(3_000_000)])
def test_what_is_sent_is_read_by_the_servers_parser(call: bytes, files: list[bytes]) -> None:
    sent = form(call, {f"f{i}": data for i, data in enumerate(files)})
    body = b"".join(sent)
    assert len(body) == sent.size
    found = {}
    for item in MultipartParser(BytesIO(body), sent.boundary, sent.size, strict=True):
        found[item.name] = item.file.read()
        item.close()
    assert found == {"call": call, **{f"f{i}": data for i, data in enumerate(files)}}


def read(body: bytes, cuts: Collection[int] = (), content_type: str = CONTENT_TYPE) -> dict[str, bytes]:
    """The parts of a body that comes in pieces."""
    reader = FormReader(content_type)
    for begin, end in pairwise(sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})):
        reader.feed(body[begin:end])
    return {name: data.getvalue() for name, data in reader.parts().items()}


@given(
    st.dictionaries(st.sampled_from(["reply", "f0", "f1"]), st.binary() | st.just(b"\r\n--b1--\r\n"), min_size=1),
    st.lists(st.integers(0, 10_000)),
    st.sampled_from([b"", b"\r\nwhatever follows\r\n\r\n", bytes(20_000)]),
)
def test_what_comes_is_taken_by_its_lengths(parts: dict[str, bytes], cuts: list[int], more: bytes) -> None:
    body = b"".join(part(name, data) for name, data in parts.items()) + b"--b1--\r\n" + more
    assert read(body, cuts) == parts
    assert read(body, range(200)) == parts


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", part("reply", b"{}") + b"--b1--"),
        (CONTENT_TYPE, b""),
        (CONTENT_TYPE, part("reply", b"{}")),
        (CONTENT_TYPE, part("reply", b"{}")[:-4] + b"--b1--"),
        (CONTENT_TYPE, part("reply", b"{}")[:-4]),
        (CONTENT_TYPE, b"--b1\r\nContent-Length: 2\r\n\r\n{}\r\n--b1--"),
        (CONTENT_TYPE, b'--b1\r\nContent-Disposition: form-data; name="reply"\r\n\r\n{}\r\n--b1--'),
        (CONTENT_TYPE, part("reply", b"{}") + b"--b2--"),
        (CONTENT_TYPE, b"--b1\r\n" + b"x" * 100_000),
    ],
)
def test_a_form_that_is_none_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(BadReply):
        read(body, content_type=content_type)


@given(st.binary(), st.integers(0, 100), st.lists(st.integers(0, 200)))
def test_whatever_comes_is_parts_or_an_error_of_ours(noise: bytes, at: int, cuts: list[int]) -> None:
    body = part("reply", b"{}") + b"--b1--\r\n"
    with suppress(BadReply):
        read(body[:at] + noise + body[at:], cuts)
