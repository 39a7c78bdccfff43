"""Values: what goes to the sandbox arrives as what it is, and comes back so; what would not is refused here."""

import datetime
import decimal
import enum
import json
import math
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from io import BytesIO
from typing import Any

import httpx
import kodou
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from kodou import libraries, tags
from kodou.values import Values

from tests.unit.sdk.loopback import Loopback

SIZE = 16 * 2**20  # bytes
TAGS = st.sampled_from(
    ["$ref", "$file", "$bytes", "$array", "$object", "$image", "$frame", "dtype", "shape", "columns"]
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.sampled_from(["r1", "f0", "aGk=", "pandas"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3) | TAGS, inner, max_size=4)
        | st.fixed_dictionaries({"$ref": st.just("r1")})
        | st.fixed_dictionaries({"$ref": st.just("r1"), "type": inner, "repr": inner})
        | st.fixed_dictionaries({"$object": st.dictionaries(TAGS, inner, max_size=2)})
    ),
    max_leaves=10,
)
dtypes = (
    npst.boolean_dtypes()
    | npst.integer_dtypes(endianness="?")
    | npst.floating_dtypes(endianness="?", sizes=(16, 32, 64))
    | npst.complex_number_dtypes(endianness="?", sizes=(64, 128))
    | npst.datetime64_dtypes(endianness="<")
    | npst.timedelta64_dtypes(endianness="<")
    | npst.unicode_string_dtypes(endianness="?", max_len=4)
    | npst.byte_string_dtypes(max_len=4)
)


def there_and_back(env: kodou.Environment, value: Any) -> Any:
    return env.operator.getitem([value], 0).value()


@given(value=values)
def test_json_and_bytes_come_back_as_they_went(env: kodou.Environment, value: Any) -> None:
    assert there_and_back(env, value) == value


@given(value=values, number=st.sampled_from([math.nan, math.inf, -math.inf, np.float64("nan")]))
def test_numbers_that_are_not_finite_come_back_as_they_went(
    env: kodou.Environment, loopback: Loopback, value: Any, number: float
) -> None:
    plain = float(number)
    back = there_and_back(env, [number, {"$object": [number], "$float": number}, value])
    assert repr(back) == repr([plain, {"$object": [plain], "$float": plain}, value])
    json.loads(loopback.requests[-1].json, parse_constant=pytest.fail)


def test_what_looks_like_a_tag_once_its_number_is_one_is_none(env: kodou.Environment) -> None:
    assert env.repr({"$object": math.nan, "a": 1}) == "{'$object': nan, 'a': 1}"
    assert env.repr({"$object": math.nan}) == "{'$object': nan}"
    assert env.repr({"$object": {"$float": "NaN"}}) == "{'$object': {'$float': 'NaN'}}"


@given(array=npst.arrays(dtypes, npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3)))
def test_arrays_come_back_as_they_went(env: kodou.Environment, array: Any) -> None:
    for given_array in (array, array.T, array[::-1]):
        back = there_and_back(env, given_array)
        assert (back.shape, back.dtype) == (given_array.shape, array.dtype.newbyteorder("<"))
        np.testing.assert_array_equal(back, given_array)
        assert back.flags.writeable
        assert not np.may_share_memory(back, given_array)


@pytest.mark.anyio
@pytest.mark.parametrize("value", [np.zeros(SIZE // 8), bytes(SIZE)], ids=["array", "bytes"])
async def test_what_comes_is_held_once(value: Any) -> None:
    tag = {"$file": "f0"} if isinstance(value, bytes) else {"$array": "f0", "dtype": "<f8", "shape": [SIZE // 8]}
    parts = [("reply", json.dumps({"error": False, "value": tag}).encode()), ("f0", bytes(SIZE))]

    def body() -> Iterator[bytes]:
        for name, data in parts:
            head = f'--b\r\nContent-Disposition: form-data; name="{name}"\r\nContent-Length: {len(data)}\r\n\r\n'
            yield head.encode()
            yield from (data[i : i + 2**16] for i in range(0, len(data), 2**16))
            yield b"\r\n"
        yield b"--b--\r\n"

    async def pieces() -> AsyncIterator[bytes]:
        for piece in body():
            yield piece

    def answered(content: Any) -> httpx.MockTransport:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        return httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=content()))

    tracemalloc.start()
    try:
        with kodou.Client("http://host", "token", transport=answered(body)) as client:
            came = client.session("s").call("f")
        assert tracemalloc.get_traced_memory()[1] < 1.5 * SIZE
        assert np.array_equal(came, value)
        del came
        tracemalloc.reset_peak()
        async with kodou.AsyncClient("http://host", "token", transport=answered(pieces)) as other:
            came = await other.session("s").call("f")
        assert tracemalloc.get_traced_memory()[1] < 1.5 * SIZE
        assert np.array_equal(came, value)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, float("nan")]}),
        pd.DataFrame({"a": [True, False]}, index=["x", "y"]),
        pd.DataFrame({"t": pd.to_datetime(["2024-01-01", "2024-01-02"])}, index=[5, 7]),
        pd.DataFrame({1: [1], 2: [2]}),
        pd.DataFrame(),
    ],
)
def test_frames_of_pandas_come_back_as_they_went(env: kodou.Environment, frame: Any) -> None:
    back = there_and_back(env, frame)
    pd.testing.assert_frame_equal(back, frame, check_column_type=False, check_index_type=False)


@pytest.mark.parametrize(
    "frame",
    [
        pl.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, None], "d": [True, False]}),
        pl.DataFrame({"e": pl.Series([1, 2], dtype=pl.UInt8), "f": [[1], [2, 3]]}),
        pl.DataFrame({"g": [b"x", None], "h": [{"$ref": "r1"}, {"$ref": "r2"}], "i": [[b"y"], []], "j": [None, None]}),
        pl.DataFrame(),
    ],
)
def test_frames_of_polars_come_back_as_they_went(env: kodou.Environment, frame: Any) -> None:
    assert there_and_back(env, frame).equals(frame)


def test_bytes_and_arrays_go_beside_the_json_and_plain_values_in_it(env: kodou.Environment, loopback: Loopback) -> None:
    data = bytes(range(256)) * 100
    assert env.len(data) == len(data)
    assert loopback.requests[-1].files == {"f0": data}
    assert env.numpy.sum(np.arange(1000)) == 499500
    assert loopback.requests[-1].files == {"f0": np.arange(1000).tobytes()}
    assert env.len([1, 2]) == 2
    assert loopback.requests[-1].headers["content-type"] == "application/json"


def test_a_few_bytes_go_in_the_json(env: kodou.Environment, loopback: Loopback) -> None:
    keys = [bytes([i % 256]) * 32 for i in range(1000)]
    assert env.map(env.len, keys) == [32] * 1000
    assert loopback.requests[-1].files == {}
    assert there_and_back(env, memoryview(bytes(range(256)) * 20)[::2]) == (bytes(range(256)) * 20)[::2]
    assert there_and_back(env, memoryview(b"abc")[::-1]) == b"cba"


def test_sessions_take_and_give_the_same_values(client: kodou.Client) -> None:
    with client.setup() as session:
        assert session.call("builtins.len", b"abc") == 3
        assert session.call("numpy.ones", 2).tolist() == [1, 1]
        assert session.reply("builtins.bytes", [1]).value == b"\x01"


def test_what_looks_like_a_tag_once_it_is_encoded_is_none(env: kodou.Environment) -> None:
    assert there_and_back(env, {"$object": b"x"}) == {"$object": b"x"}
    assert there_and_back(env, {"$object": np.arange(2)})["$object"].tolist() == [0, 1]


def test_numbers_and_texts_of_numpy_go_as_pythons(env: kodou.Environment) -> None:
    assert there_and_back(env, [np.int8(3), np.float32(0.5), np.bool_(True), np.str_("a"), np.bytes_(b"b")]) == [
        3,
        0.5,
        True,
        "a",
        b"b",
    ]


def test_subclasses_of_plain_types_go_as_those(env: kodou.Environment) -> None:
    class Colour(enum.IntEnum):
        RED = 2

    assert there_and_back(env, [Colour.RED, (1, 2), bytearray(b"x"), memoryview(b"y")]) == [2, [1, 2], b"x", b"y"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (datetime.datetime(2024, 1, 1), "datetime.datetime would not arrive"),
        (decimal.Decimal(1), "decimal.Decimal"),
        ({1, 2}, "a set would not"),
        (1j, "a complex would not"),
        ({1: 2}, "a key of type int"),
        (len, "lives in this process"),
        (object(), "an object would not"),
        (pd.Series([1]), r"pandas.*Series would not arrive as one: send its `to_numpy\(\)`"),
        (pl.Series([1]), r"polars.*Series would not .* `to_frame\(\)`"),
        (np.array([object()]), "dtype object"),
        (np.ma.array([1], mask=[True]), "mask"),
        (np.datetime64("2024"), "numpy.datetime64"),
        (np.longdouble(1), "numpy.longdouble"),
        (pd.DataFrame({"a": pd.Categorical(["x"])}), "dtype category"),
        (pd.DataFrame({("a", "b"): [1]}), "several levels"),
        (pl.DataFrame({"c": [datetime.date(2024, 1, 1)]}), r"\['c'\]: a column of dtype Date would not"),
        (pl.DataFrame({"c": pl.Series(["x"], dtype=pl.Categorical)}), "dtype Categorical"),
        (pl.DataFrame({"c": pl.Series([decimal.Decimal(1)])}), "dtype Decimal"),
        (pl.DataFrame({"c": pl.Series([1, None], dtype=pl.Int8)}), "dtype Int8 with nulls"),
        (pl.DataFrame({"c": [[{"d": datetime.time(1)}]]}), r"dtype List\(Struct"),
    ],
)
def test_what_would_not_arrive_is_refused_with_its_place(env: kodou.Environment, value: Any, why: str) -> None:
    call = env.len([0, {"a": value}])
    with pytest.raises(TypeError, match=why) as caught:
        call.value()
    assert str(caught.value).startswith("len[0][1]['a']")


@given(
    path=st.lists(st.text(max_size=3) | TAGS | st.integers(0, 2), max_size=5),
    beside=values,
    foreign=st.dates() | st.times() | st.uuids() | st.decimals() | st.complex_numbers() | st.sets(st.integers()),
)
def test_wherever_it_stands_the_place_is_told(
    env: kodou.Environment, path: list[str | int], beside: Any, foreign: Any
) -> None:
    tree = foreign
    for key in reversed(path):
        tree = [*[beside] * key, tree] if isinstance(key, int) else {"": beside, key: tree}
    call = env.len(tree)
    with pytest.raises(TypeError, match="would not arrive as one") as caught:
        call.value()
    assert str(caught.value).startswith("len[0]" + "".join(f"[{key!r}]" for key in path) + ": a")


def test_images_come_as_images(env: kodou.Environment) -> None:
    image = env["PIL.Image"].new("RGB", [2, 3]).value()
    assert image.type == "image/png"
    assert image.data.startswith(b"\x89PNG")
    assert env.len(image) == len(image.data)


def test_without_numpy_values_are_plain(env: kodou.Environment, loopback: Loopback, monkeypatch: Any) -> None:
    monkeypatch.setattr("kodou.replies.installed", lambda name: False)
    assert env.numpy.ones(2).value() == [1, 1]
    assert env.bytes([104, 105]).value() == b"hi"
    assert loopback.requests[-1].headers["accept"] == "application/json"


def test_without_pandas_a_frame_is_an_object_of_columns(env: kodou.Environment, monkeypatch: Any) -> None:
    monkeypatch.setattr("kodou.tables.library", lambda name: None)
    frame = env.pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}).value()
    assert frame["columns"] == ["a", "b"]
    assert [list(column) for column in frame["data"]] == [[1, 2], ["x", "y"]]


def test_what_only_looks_like_a_tag_is_left_alone() -> None:
    for value in ({"$bytes": "no base64!"}, {"$file": "f0"}, {"$bytes": "aGk=", "more": 1}):
        assert Values().decode([value]) == [value]


@given(values)
def test_whatever_a_reply_holds_it_is_a_value_or_an_error_of_ours(value: Any) -> None:
    with suppress(kodou.KodouError):
        Values({"f0": BytesIO(b"12345678"), "r1": BytesIO()}).decode(value)


def test_libraries_are_looked_for_without_importing_them() -> None:
    assert libraries.installed("numpy")
    assert not libraries.installed("no_such_library")
    assert libraries.library("no_such_library") is None


@pytest.mark.parametrize(
    "wrapped", [lambda items: [items], lambda items: {"a": items}, lambda items: {"a": items, "b": b"x"}]
)
def test_what_holds_itself_is_told_as_that_with_its_place(env: kodou.Environment, wrapped: Any) -> None:
    circle: list[Any] = [1, b"x"]
    circle.append(wrapped(circle))
    with pytest.raises(TypeError, match=r"^len\[0\]\[2\]\[.*…: it holds itself, or is nested more than 200 deep$"):
        env.len(circle).value()
    deep: Any = b""
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match="holds itself, or is nested"):
        env.len(deep).value()
    while deep:  # or its end would be too deep for Python
        deep = deep.pop()


def test_a_request_that_holds_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for tree in (circle, deep):
        with pytest.raises(ValueError, match="holds itself"):
            tags.dumps({"a": tree})
    while deep:
        deep = deep.pop()
