import json
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.types import Message

from orchestrator.api import parsing
from orchestrator.api.problems import MalformedRequest, UnsupportedMediaType
from orchestrator.errors import InvalidRequest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(JSON, st.booleans(), st.booleans())
def test_what_any_encoder_writes_comes_back(value: object, ascii_only: bool, any_number: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parsing.loads(body, max_depth=100, any_number=any_number) == value


@given(JSON, st.integers(1, 6))
def test_the_depth_check_agrees_with_a_plain_count(value: object, limit: int) -> None:
    body = json.dumps(value).encode()
    if depth(value) > limit:
        with pytest.raises(InvalidRequest, match=f"deeper than {limit} levels"):
            parsing.check_depth(body, max_depth=limit)
    else:
        parsing.check_depth(body, max_depth=limit)


@pytest.mark.parametrize(
    "text",
    ['"[[[[["', '"\\"[[[[["', '"\\\\"', '["\\\\", "[[[[", "\\\\\\"{{{{"]', '{"[[[[": "{{{{"}', '["]", "[[[["]'],
)
def test_brackets_in_strings_are_no_depth(text: str) -> None:
    json.loads(text)
    parsing.check_depth(text.encode(), max_depth=1)


@given(
    JSON | st.recursive(st.text(st.sampled_from('\\"[{a')), lambda inner: st.lists(inner, max_size=4)),
    st.integers(1, 9),
)
def test_it_matters_nothing_where_a_body_is_cut_to_be_looked_at(value: object, piece_bytes: int) -> None:
    body = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parsing, "_PIECE_BYTES", piece_bytes)
        pieces = list(parsing.outside_strings(body, b"[]{}"))
        assert max(map(len, pieces)) <= piece_bytes + 1
        assert len(b"".join(pieces)) == 2 * containers(value)
        parsing.check_depth(body, max_depth=max(1, depth(value)))
        if depth(value) > 1:
            with pytest.raises(InvalidRequest):
                parsing.check_depth(body, max_depth=depth(value) - 1)


def containers(value: object) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + sum(map(containers, value.values() if isinstance(value, dict) else value))


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_hundred_thousand_levels_are_refused_not_recursed_into(opening: bytes) -> None:
    with pytest.raises(InvalidRequest, match="nested deeper than 100 levels"):
        parsing.loads(opening * 100_000, max_depth=100)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),  # a surrogate, encoded as if it were a character
        (b"{", "line 1, column 2"),
        (b'{"a": 1,}', "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b'{"a": "\x00"}', "not JSON"),
    ],
)
def test_what_is_no_json_is_malformed(body: bytes, says: str) -> None:
    with pytest.raises(MalformedRequest, match=says):
        parsing.loads(body, max_depth=10)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": 1, "a": 1}', "'a' is there twice"),
        (b'[{"b": {"a": 1, "\\u0061": 2}}]', "'a' is there twice"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\uDFFF": 1}', "surrogate"),
        (b"1e999", "too large"),
        (b"9" * 5000, "digits"),
    ],
)
def test_json_that_parsers_disagree_on_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        parsing.loads(body, max_depth=10)
    assert not isinstance(caught.value, MalformedRequest)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parsing.loads(b'"\\ud83d\\ude00"', max_depth=10) == "\U0001f600"


def test_calls_may_hold_any_number() -> None:
    nan, infinity, huge, long = parsing.loads(
        b"[NaN, -Infinity, 1e999, %s]" % (b"9" * 5000), max_depth=10, any_number=True
    )
    assert math.isnan(nan)
    assert (infinity, huge) == (-math.inf, math.inf)
    assert long == "9" * 5000


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"content-type": b"application/json; charset=utf-8"},
        {b"content-type": b"text/plain"},
        {b"content-type": b"application/x-www-form-urlencoded"},  # what a plain `curl -d` says
        {b"content-type": b'Application/JSON; q=1; Charset="UTF-8"'},
        {b"content-type": b"application/problem+json"},
        {b"content-encoding": b"identity"},
    ],
)
def test_a_body_is_taken_for_json_where_it_is_not_said_to_be_something_else(headers: dict[bytes, bytes]) -> None:
    parsing.check_headers(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {b"content-type": b"Multipart/Form-Data; boundary=x"},
        {b"content-type": b"application/protobuf"},
        {b"content-type": b"application/xml"},
        {b"content-type": b"application/yaml"},
        {b"content-type": b"text/html; charset=utf-8"},
        {b"content-type": b"image/png"},
        {b"content-type": b"application/json; charset=iso-8859-1"},
        {b"content-type": b"text/plain;charset=utf-16"},
        {b"content-encoding": b"gzip", b"content-type": b"application/json"},
    ],
)
def test_other_media_types_and_charsets_and_compressed_bodies_are_refused(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(UnsupportedMediaType):
        parsing.check_headers(headers)


@pytest.mark.anyio
async def test_a_body_is_read_in_whatever_pieces_it_comes() -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "more_body": True},
        {"type": "http.request", "body": b"c"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    assert await parsing.read_body(receive) == b"abc"


@pytest.mark.anyio
async def test_a_client_that_leaves_inside_the_body_is_told_from_a_short_body() -> None:
    messages: list[Message] = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    with pytest.raises(ClientDisconnect):
        await parsing.read_body(receive)


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode), st.integers(1, 9))
def test_what_is_no_utf_8_is_found_where_it_is_however_it_is_cut(body: bytes, piece: int) -> None:
    def told(check: Callable[[bytes], object]) -> str | None:
        try:
            check(body)
        except UnicodeDecodeError as exc:
            return f"the body is not UTF-8: byte {exc.start}"
        except MalformedRequest as error:
            return error.detail
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parsing, "_PIECE_BYTES", piece)
        assert told(parsing.check_utf_8) == told(bytes.decode)
