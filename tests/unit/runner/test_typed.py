"""The typed form: what is encoded comes back as it was, once it is an argument."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure
from runner.evaluation.tags import Tags
from runner.frames import MAX_FILES
from runner.refusal import InvalidRequest, NotSerializable, ReplyTooLarge
from runner.values import typed
from runner.values.rendering import MAX_DEPTH

ROOM = 1 << 24


def encoded(value: Any, *, max_bytes: int = ROOM, max_content_bytes: int = ROOM) -> tuple[Any, dict[str, bytes]]:
    text, _, files = typed.encode(value, max_bytes=max_bytes, max_content_bytes=max_content_bytes)
    return json.loads(text), {name: bytes(data) for name, data in files}


def decoded(tree: Any, files: dict[str, bytes]) -> Any:
    """As an argument of a request."""
    tags = Tags(lambda: pytest.fail("no object is kept here"), {name: memoryview(file) for name, file in files.items()})
    value = tags.resolve(tree, "args[0]")
    tags.check_all_named()
    return value


def there_and_back(value: Any) -> Any:
    return decoded(*encoded(value))


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype.newbyteorder("<") and one.shape == other.shape and one.tobytes() == _raw(other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(same, one.values(), other.values()))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


def _raw(array: Any) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()  # type: ignore[no-any-return]


shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3)
dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
    hnp.byte_string_dtypes(min_len=1, max_len=4),
    hnp.unicode_string_dtypes(endianness="?", min_len=1, max_len=4),
)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shapes))
words = ["type", "repr", "dtype", "shape", "columns", "index", "data"]
keys = st.text() | st.sampled_from(
    ["$ref", "$file", "$bytes", "$float", "$object", "$image", "$array", "$frame", *words]
)


def json_values(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Any]:
    texts = st.text() | st.sampled_from(["r1", "f0", "NaN", "pandas", ""])
    return st.recursive(
        st.none() | st.booleans() | st.integers() | numbers | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=20,
    )


values = st.recursive(
    json_values(st.floats()) | st.binary() | arrays,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=10,
)


@given(value=values)
def test_what_is_encoded_comes_back_as_it_was(value: Any) -> None:
    assert same(there_and_back(value), value)


@given(array=arrays, order=st.sampled_from("CF"))
def test_an_array_of_any_layout_comes_back_writable_and_with_memory_of_its_own(array: Any, order: Any) -> None:
    for laid_out in (np.array(array, order=order), array[::-1], array[..., ::2], array.T):
        back = there_and_back(laid_out)
        assert same(back, np.asarray(laid_out))
        assert back.flags.writeable
        assert back.flags.owndata


class EveryPart(dict[str, memoryview]):
    """The files of a request that has any part one may name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> memoryview:
        return memoryview(b"")


def reads_as_itself(value: Any) -> bool:
    def kept() -> Any:
        raise LookupError

    try:
        return same(Tags(kept, EveryPart()).resolve(value, "args[0]"), value)
    except (InvalidRequest, LookupError):
        return False


@given(value=json_values(st.floats(allow_nan=False, allow_infinity=False)))
def test_what_would_be_read_as_a_tag_is_escaped_and_nothing_else(value: Any) -> None:
    tree, files = encoded(value)
    assert not files
    assert same(tree, value) == reads_as_itself(value)


@pytest.mark.parametrize(
    ("value", "tree", "files"),
    [
        (b"ab", {"$file": "f0"}, [b"ab"]),
        ([bytearray(b"a"), memoryview(b"abcd")[::2]], [{"$file": "f0"}, {"$file": "f1"}], [b"a", b"ac"]),
        ({"a": np.int16([1])}, {"a": {"$array": "f0", "dtype": "<i2", "shape": [1]}}, [b"\1\0"]),
        (np.array([[1], [2]], ">u2"), {"$array": "f0", "dtype": "<u2", "shape": [2, 1]}, [b"\1\0\2\0"]),
        (np.array([1.5], np.longdouble), {"$array": "f0", "dtype": "<f8", "shape": [1]}, [np.array(1.5).tobytes()]),
        (np.array(5), 5, []),
        (np.float64(1.5), 1.5, []),
        (np.array([None, b"a"]), [None, {"$file": "f0"}], [b"a"]),
        (np.ma.array([1, 2], mask=[0, 1]), [1, None], []),
        (np.array([(1, b"x")], "i4,S1"), [{"f0": 1, "f1": {"$file": "f0"}}], [b"x"]),
        (np.array([("2020-01-02",)], [("when", "M8[D]")]), [{"when": "2020-01-02"}], []),
        (pd.Series([1.5], name="s"), {"name": "s", "data": [1.5]}, []),
        ({"$ref": "r1"}, {"$object": {"$ref": "r1"}}, []),
        ({"$ref": "r3fa9c1d2-1"}, {"$object": {"$ref": "r3fa9c1d2-1"}}, []),
        ({"$ref": "#/definitions/x"}, {"$ref": "#/definitions/x"}, []),
        ({"$ref": "r1", "type": "x"}, {"$ref": "r1", "type": "x"}, []),
        ({"$ref": "r1", "type": 1, "repr": 2}, {"$object": {"$ref": "r1", "type": 1, "repr": 2}}, []),
        ({"$ref": "x", "type": "x", "repr": "y"}, {"$ref": "x", "type": "x", "repr": "y"}, []),
        ({"$bytes": b"a"}, {"$bytes": {"$file": "f0"}}, [b"a"]),
        ({"$object": {"a": 1}}, {"$object": {"$object": {"a": 1}}}, []),
        ({"$object": 1}, {"$object": 1}, []),
        ({"$object": 0.5}, {"$object": 0.5}, []),
        ({"$object": math.nan}, {"$object": {"$object": {"$float": "NaN"}}}, []),
        (np.array([("r1",)], [("$ref", "U2")]), [{"$object": {"$ref": "r1"}}], []),
        (
            np.array([((b"x",),)], [("$object", [("a", "S1")])])[0],
            {"$object": {"$object": {"a": {"$file": "f0"}}}},
            [b"x"],
        ),
        ({"$image": "f0", "type": "image/png"}, {"$object": {"$image": "f0", "type": "image/png"}}, []),
        ([math.inf, {"$float": "NaN"}], [{"$float": "Infinity"}, {"$object": {"$float": "NaN"}}], []),
        (
            pd.DataFrame({"a": [1], "b": ["x"]}, index=[5]),
            {
                "$frame": "pandas",
                "columns": ["a", "b"],
                "index": {"$array": "f0", "dtype": "<i8", "shape": [1]},
                "data": [{"$array": "f1", "dtype": "<i8", "shape": [1]}, ["x"]],
            },
            [(5).to_bytes(8, "little"), (1).to_bytes(8, "little")],
        ),
        (
            pl.DataFrame({"a": [1, None], "b": [1, 2]}),
            {
                "$frame": "polars",
                "columns": ["a", "b"],
                "data": [[1, None], {"$array": "f0", "dtype": "<i8", "shape": [2]}],
            },
            [np.array([1, 2]).tobytes()],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_have_their_typed_form(value: Any, tree: Any, files: list[bytes]) -> None:
    found, content = encoded(value)
    assert found == tree
    assert content == {f"f{i}": data for i, data in enumerate(files)}


def test_a_structure_with_an_image_has_it_beside_and_gives_its_bytes() -> None:
    tree, files = encoded({"plot": Figure()})
    assert tree == {"plot": {"$image": "f0", "type": "image/png"}}
    assert files["f0"].startswith(b"\x89PNG")
    assert decoded(tree, files) == {"plot": files["f0"]}


def test_the_type_is_named_as_in_plain_json() -> None:
    for value, name in ((b"a", "bytes"), ([b"a"], None), (np.zeros(1), "numpy.ndarray")):
        assert typed.encode(value, max_bytes=ROOM, max_content_bytes=ROOM)[1] == name


def test_the_memory_of_an_array_is_not_copied() -> None:
    array = np.arange(6.0).reshape(2, 3)
    _, _, ((_, data),) = typed.encode(array, max_bytes=ROOM, max_content_bytes=ROOM)
    assert np.shares_memory(np.frombuffer(data, "u1"), array)


endless = np.lib.stride_tricks.as_strided(np.zeros(1), (10**6, 10**6), (0, 0))


@pytest.mark.parametrize(
    "value", [b"abcd", [b"ab", b"cd"], np.zeros(1, "f4"), endless, memoryview(b"abcdefgh")[::2], Figure()], ids=type
)
def test_files_that_take_more_than_they_may_are_refused(value: Any) -> None:
    with pytest.raises(ReplyTooLarge) as caught:
        encoded(value, max_content_bytes=3)
    assert caught.value.members["code"] == "reply_too_large"


def test_more_files_than_a_reply_may_have_are_refused() -> None:
    assert len(encoded([b""] * MAX_FILES)[1]) == MAX_FILES
    with pytest.raises(ReplyTooLarge, match=f"more than {MAX_FILES}"):
        encoded([b""] * (MAX_FILES + 1))


def test_what_has_no_form_in_json_has_none_here() -> None:
    with pytest.raises(NotSerializable):
        encoded([np.zeros(1), object()])


# --- frames ---

PANDAS = [
    pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, math.nan], "d": [True, False]}),
    pd.DataFrame({"t": pd.to_datetime(["2020-01-02", None]), "l": pd.to_timedelta([1, 2], unit="s"), "z": [1j, 2]}),
    pd.DataFrame({"a": [1, 2]}, index=["p", "q"]),
    pd.DataFrame({"a": [1.0, 2.0]}, index=pd.to_datetime(["2020-01-02", "2020-01-03"])),
    pd.DataFrame({"a": [1, 2]}).iloc[1:],
    pd.DataFrame([[1, "x"]], columns=["a", "a"]),
    pd.DataFrame({("a", 1): [1], ("a", 2): [2]}),
    pd.DataFrame({"a": [1, 2]}, index=pd.MultiIndex.from_tuples([("u", 1), ("v", 2)])),
    pd.DataFrame(np.arange(6).reshape(2, 3)),
    pd.DataFrame({"o": [b"ab", [1, b"c"]]}),
    pd.DataFrame({"a": np.array([], "f4")}),
    pd.DataFrame(index=range(2)),
    pd.DataFrame(),
]
POLARS = [
    pl.DataFrame({"a": [1, None], "b": [1.5, math.nan], "c": [True, False], "s": ["x", None], "l": [[1], [2, 3]]}),
    pl.DataFrame({"t": pl.Series(["2020-01-02"]).str.to_date(), "u": pl.Series([1.0], dtype=pl.Float32)}),
    pl.DataFrame({"t": pl.Series([1, 2]).cast(pl.Datetime("us")), "d": pl.Series([1, 2]).cast(pl.Duration("ms"))}),
    pl.DataFrame({"a": pl.Series([], dtype=pl.Int8)}),
    pl.DataFrame(),
]


@pytest.mark.parametrize("frame", PANDAS, ids=range(len(PANDAS)))
def test_a_frame_of_pandas_comes_back(frame: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(there_and_back(frame), frame)


@pytest.mark.parametrize("frame", POLARS, ids=range(len(POLARS)))
def test_a_frame_of_polars_comes_back(frame: pl.DataFrame) -> None:
    assert there_and_back(frame).equals(frame)
    assert there_and_back(frame).schema == frame.schema


def test_what_numpy_has_no_type_for_comes_back_as_in_json() -> None:
    zoned = pd.DataFrame({"t": pd.to_datetime(["2020-01-02"]).tz_localize("UTC"), "c": pd.Categorical(["u"])})
    assert there_and_back(zoned).values.tolist() == [["2020-01-02T00:00:00+00:00", "u"]]
    assert there_and_back(pl.from_pandas(zoned)).rows() == [("2020-01-02T00:00:00+00:00", "u")]


columns = dtypes.filter(lambda dtype: dtype.kind in "biuf").flatmap(
    lambda dtype: hnp.arrays(dtype.newbyteorder("="), 3)
)


@given(columns=st.dictionaries(st.text(), columns | st.lists(st.text(), min_size=3, max_size=3), max_size=4))
def test_any_columns_come_back(columns: dict[str, Any]) -> None:
    frame = pd.DataFrame(columns)
    pd.testing.assert_frame_equal(there_and_back(frame), frame)
    narrow = {name: column for name, column in columns.items() if getattr(column, "dtype", None) != np.float16}
    assert there_and_back([pl.DataFrame(narrow)])[0].equals(pl.DataFrame(narrow))


# --- what is refused ---

ARRAY = {"$array": "part", "dtype": "<f8", "shape": [2]}
FRAME = {"$frame": "pandas", "columns": ["a"], "data": [[1]]}


@pytest.mark.parametrize(
    ("tag", "field", "detail"),
    [
        ({**ARRAY, "dtype": 8}, "args[0].dtype", "has to be a string"),
        ({**ARRAY, "dtype": "wrong"}, "args[0].dtype", "is no dtype"),
        ({**ARRAY, "dtype": "<f8" * 100}, "args[0].dtype", "has to be a string"),
        ({**ARRAY, "dtype": "M8[years]"}, "args[0].dtype", "is no dtype"),
        ({**ARRAY, "dtype": "O"}, "args[0].dtype", "not taken"),
        ({**ARRAY, "dtype": "V8"}, "args[0].dtype", "not taken"),
        ({**ARRAY, "dtype": "i4,O"}, "args[0].dtype", "not taken"),
        ({**ARRAY, "dtype": "S"}, "args[0].dtype", "not taken"),
        ({**ARRAY, "dtype": "<f16"}, "args[0].dtype", "not taken"),
        ({**ARRAY, "dtype": ">f8"}, "args[0].dtype", "little-endian"),
        ({**ARRAY, "shape": 2}, "args[0].shape", "list of integers"),
        ({**ARRAY, "shape": [-2]}, "args[0].shape", "list of integers"),
        ({**ARRAY, "shape": [True, 2]}, "args[0].shape", "list of integers"),
        ({**ARRAY, "shape": [2.0]}, "args[0].shape", "list of integers"),
        ({**ARRAY, "shape": [1] * 40 + [2]}, "args[0].shape", "at most 32 dimensions"),
        ({**ARRAY, "shape": [3]}, "args[0]", "has 24 bytes, and the file has 16"),
        ({**ARRAY, "shape": [10**30]}, "args[0]", "and the file has 16"),
        ({**ARRAY, "$array": "empty", "shape": [0, 10**30]}, "args[0].shape", "numpy makes no array"),
        ({**ARRAY, "$array": "other"}, "args[0]", "no part 'other'"),
        ({**FRAME, "$frame": "excel"}, "args[0].$frame", "'pandas' or of 'polars'"),
        ({**FRAME, "columns": "a"}, "args[0].columns", "has to be a list"),
        ({**FRAME, "columns": ["a", "b"]}, "args[0].data", "2 columns has 1 lists"),
        ({**FRAME, "data": {}}, "args[0].data", "has to be a list"),
        ({**FRAME, "data": ["a"]}, "args[0].data[0]", "a list or an array"),
        ({**FRAME, "columns": ["a", "b"], "data": [[1], [1, 2]]}, "args[0].data[1]", "2 values, and there are 1 rows"),
        ({**FRAME, "index": [1, 2]}, "args[0].data[0]", "1 values, and there are 2 rows"),
        ({**FRAME, "index": 1}, "args[0].index", "a list or an array"),
        ({**FRAME, "data": [{**ARRAY, "shape": [3]}]}, "args[0].data[0]", "has 24 bytes"),
        ({**FRAME, "columns": [{"a": 1}]}, "args[0].columns[0]", "no label"),
        ({**FRAME, "index": [[1, {}]]}, "args[0].index[0][1]", "no label"),
        ({**FRAME, "$frame": "polars", "index": [1]}, "args[0].index", "has no index"),
        ({**FRAME, "$frame": "polars", "columns": ["a", "a"], "data": [[1], [2]]}, "args[0]", "polars makes no frame"),
        ({**FRAME, "$frame": "polars", "columns": [1]}, "args[0]", "polars makes no frame"),
        ({**FRAME, "$frame": "polars", "data": [[1, "a"]]}, "args[0]", "polars makes no frame"),
    ],
    ids=str,
)
def test_a_wrong_tag_is_refused_where_it_stands(tag: Any, field: str, detail: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoded(tag, {"part": bytes(16), "empty": b""})
    assert caught.value.field == field
    assert detail in caught.value.detail


@pytest.mark.parametrize(
    ("make", "package"),
    [
        (lambda: typed.array(ARRAY, memoryview(bytes(16)), "args[0]"), "numpy"),
        (lambda: typed.frame(FRAME, lambda value, _: value, "args[0]"), "pandas"),
        (lambda: typed.frame({**FRAME, "$frame": "polars"}, lambda value, _: value, "args[0]"), "polars"),
    ],
    ids=["numpy", "pandas", "polars"],
)
def test_a_package_that_is_not_there_is_named(
    make: Callable[[], Any], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(InvalidRequest, match=f"needs {package}, which is not in the environment") as caught:
        make()
    assert caught.value.field == "args[0]"


def test_objects_that_look_like_tags_make_a_value_no_deeper_than_arguments_may_be() -> None:
    value: dict[str, Any] = {}
    for _ in range((MAX_DEPTH - 1) // 2):
        value = {"$object": value}
    text, _, _ = typed.encode(value, max_bytes=ROOM, max_content_bytes=ROOM)
    assert text.count(b"{") == MAX_DEPTH - 1
    with pytest.raises(NotSerializable, match=f"nested deeper than {MAX_DEPTH} levels"):
        typed.encode({"$object": value}, max_bytes=ROOM, max_content_bytes=ROOM)
