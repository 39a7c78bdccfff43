import array
import base64
import collections
import contextlib
import dataclasses
import enum
import json
import math
import threading
import time
import tracemalloc
import types
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner.refusal import NotSerializable, NoValue, ReplyTooLarge
from runner.values.rendering import MAX_DEPTH, encode

ROOM = 1 << 24


def strict(text: bytes) -> Any:
    """Reads JSON as its strictest readers do: no NaN, no key twice, no lone surrogate."""

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    value = json.loads(text.decode(), parse_constant=refuse, object_pairs_hook=unique)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def render(value: Any, *, strings: bool = False) -> Any:
    return strict(encode(value, max_bytes=ROOM, nonfinite_as_strings=strings)[0])


def failure(value: Any) -> dict[str, Any]:
    with pytest.raises(NotSerializable) as caught:
        encode(value, max_bytes=ROOM)
    assert caught.value.members["code"] == "value_not_serializable"
    return caught.value.members


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1


class Encoded(bytes, enum.Enum):
    """From the documentation of enum: the value is not what the member is as bytes."""

    NORTH = (0, "up")

    def __new__(cls, code: int, label: str) -> "Encoded":
        member = bytes.__new__(cls, [code])
        member._value_ = code
        return member


class Point(NamedTuple):
    x: int
    y: Any


@dataclasses.dataclass
class Leaf:
    name: str
    when: date
    hidden: dataclasses.InitVar[int] = 0


@dataclasses.dataclass
class Tree(dict):  # type: ignore[type-arg]
    leaves: list[Leaf]


class Text(str):
    def __str__(self) -> str:
        raise ZeroDivisionError

    __slots__ = ()


class Number(int):
    def __repr__(self) -> str:
        return "no number"


class Real(float):
    def __repr__(self) -> str:
        return "no number"


class Items(list):  # type: ignore[type-arg]
    pass


class Picture:
    def _repr_png_(self) -> bytes:
        return b"\x89PNG"


class Figure:
    def savefig(self, file: Any, format: str) -> None:
        file.write(format.encode())


PNG = {"$image": base64.b64encode(b"\x89PNG").decode(), "type": "image/png"}

TABLE = [
    # what is JSON's own has no type
    (None, None, None),
    (True, True, None),
    (12, 12, None),
    (1.5, 1.5, None),
    ("é\u2028\0", "é\u2028\0", None),
    ([1, [2, {"a": None}]], [1, [2, {"a": None}]], None),
    ({"a": 1, "b": [1.5]}, {"a": 1, "b": [1.5]}, None),
    (10**6000 + 7, 10**6000 + 7, None),
    # containers
    ((1, "a"), [1, "a"], "tuple"),
    ([(1, 2), (3,)], [[1, 2], [3]], None),
    ({3, 1, 2}, [1, 2, 3], "set"),
    (frozenset("ba"), ["a", "b"], "frozenset"),
    ({"b": 1, "a": 2}.keys(), ["b", "a"], "dict_keys"),
    ({"b": 1, "a": 2}.values(), [1, 2], "dict_values"),
    ({"b": 1, "a": 2}.items(), [["b", 1], ["a", 2]], "dict_items"),
    (range(3), [0, 1, 2], "range"),
    (collections.deque([1, {2}]), [1, [2]], "collections.deque"),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}, "collections.OrderedDict"),
    (collections.Counter("aab"), {"a": 2, "b": 1}, "collections.Counter"),
    (collections.ChainMap({"a": 1}, {"b": 2}), {"a": 1, "b": 2}, "collections.ChainMap"),
    (collections.UserDict(a=1), {"a": 1}, "collections.UserDict"),
    (collections.UserList([1]), [1], "collections.UserList"),
    (collections.UserString("ab"), "ab", "collections.UserString"),
    (types.MappingProxyType({"a": 1}), {"a": 1}, "mappingproxy"),
    (array.array("d", [1, 2]), [1.0, 2.0], "array.array"),
    (time.gmtime(0), [1970, 1, 1, 0, 0, 0, 3, 1, 0], "time.struct_time"),
    # dates and times
    (datetime(2020, 1, 2, 3, 4, 5, 6), "2020-01-02T03:04:05.000006", "datetime.datetime"),
    (datetime(2020, 1, 2, tzinfo=UTC), "2020-01-02T00:00:00+00:00", "datetime.datetime"),
    (date(2020, 1, 2), "2020-01-02", "datetime.date"),
    (clock(1, 2, 3), "01:02:03", "datetime.time"),
    (timedelta(0), "PT0S", "datetime.timedelta"),
    (timedelta(days=1, hours=2, minutes=3, seconds=4.5), "P1DT2H3M4.5S", "datetime.timedelta"),
    (timedelta(days=2), "P2D", "datetime.timedelta"),
    (timedelta(microseconds=-1), "-PT0.000001S", "datetime.timedelta"),
    (timedelta(minutes=90), "PT1H30M", "datetime.timedelta"),
    # numbers and names
    (Decimal("1.10"), "1.10", "decimal.Decimal"),
    (Fraction(2, 6), "1/3", "fractions.Fraction"),
    (1 - 2j, [1.0, -2.0], "complex"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005", "uuid.UUID"),
    (PurePosixPath("/a/b"), "/a/b", "pathlib.PurePosixPath"),
    # bytes
    (b"\0\xff", {"$bytes": "AP8="}, "bytes"),
    (bytearray(b"ab"), {"$bytes": "YWI="}, "bytearray"),
    (memoryview(b"abcd")[::2], {"$bytes": "YWM="}, "memoryview"),
    # classes
    (Colour.RED, "red", f"{__name__}.Colour"),
    (Colour.PAIR, [1, 2], f"{__name__}.Colour"),
    (Level.LOW, 1, f"{__name__}.Level"),
    (Encoded.NORTH, 0, f"{__name__}.Encoded"),
    (Point(1, {2}), {"x": 1, "y": [2]}, f"{__name__}.Point"),
    (Leaf("a", date(2020, 1, 2)), {"name": "a", "when": "2020-01-02"}, f"{__name__}.Leaf"),
    (Tree([Leaf("a", date(2020, 1, 2))]), {"leaves": [{"name": "a", "when": "2020-01-02"}]}, f"{__name__}.Tree"),
    (Text("abc"), "abc", f"{__name__}.Text"),
    (Number(5), 5, f"{__name__}.Number"),
    (Real(1.5), 1.5, f"{__name__}.Real"),
    (Items([1, 2]), [1, 2], f"{__name__}.Items"),
    (Picture(), PNG, f"{__name__}.Picture"),
    (Figure(), {"$image": "cG5n", "type": "image/png"}, f"{__name__}.Figure"),
    # keys
    ({1: "a", None: "b", True and 2.5: "c"}, {"1": "a", "null": "b", "2.5": "c"}, None),
    ({True: 1, math.nan: 2, -math.inf: 3}, {"true": 1, "NaN": 2, "-Infinity": 3}, None),
    ({date(2020, 1, 2): 1, Decimal("1.0"): 2, Colour.RED: 3}, {"2020-01-02": 1, "1.0": 2, "red": 3}, None),
    ({Text("abc"): 1, uuid.UUID(int=0): 2}, {"abc": 1, "00000000-0000-0000-0000-000000000000": 2}, None),
]


@pytest.mark.parametrize(
    ("value", "expected", "type_name"), TABLE, ids=[f"{i}-{type(row[0]).__name__}" for i, row in enumerate(TABLE)]
)
def test_a_value_has_its_form_alone_and_inside_others(value: Any, expected: Any, type_name: str | None) -> None:
    text, name = encode(value, max_bytes=ROOM)
    assert type_name == name
    rendered = _read(text)
    assert rendered == expected
    assert type(rendered) is type(expected)
    assert _read(encode([value, {"a": (value,)}], max_bytes=ROOM)[0]) == [expected, {"a": [expected]}]


def _read(text: bytes) -> Any:
    import sys

    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return strict(text)
    finally:
        sys.set_int_max_str_digits(limit)


def test_negative_zero_keeps_its_sign() -> None:
    assert math.copysign(1, render(Real(-0.0))) == -1.0


def test_a_set_that_has_no_order_is_rendered_all_the_same() -> None:
    assert sorted(render({1, "a"}), key=str) == [1, "a"]


def test_numbers_that_are_not_finite_are_null_or_strings() -> None:
    values = [math.nan, math.inf, -math.inf, 1.0, {"a": math.nan}, (math.inf,), 1 + math.inf * 1j]
    assert render(values) == [None, None, None, 1.0, {"a": None}, [None], [None, None]]
    assert render(values, strings=True)[:6] == ["NaN", "Infinity", "-Infinity", 1.0, {"a": "NaN"}, ["Infinity"]]
    assert render(math.nan) is None
    assert render(math.nan, strings=True) == "NaN"


def test_lone_surrogates_are_replaced() -> None:
    assert render("a\ud800b\udc00\ud83d\ude00") == "a\ufffdb\ufffd\ufffd\ufffd"
    assert render({"\udfff": ["\ud800", "é"]}) == {"\ufffd": ["\ufffd", "é"]}
    assert "become one" in failure(dict.fromkeys(["\ud800", "\ud801"]))["detail"]


@pytest.mark.parametrize(
    ("value", "type_name", "detail"),
    [
        (object(), "object", "no JSON form"),
        (print, "builtin_function_or_method", "no JSON form"),
        (int, "type", "no JSON form"),
        (math, "module", "no JSON form"),
        (threading.Lock(), "_thread.lock", "no JSON form"),
        (Colour, "enum.EnumType", "no JSON form"),
        (Picture, "type", "no JSON form"),
        ([1, {"a": object()}], "list", "a value of type object has no JSON form"),
        ([iter([1])], "list", "of type list_iterator, is not drained"),
        ({(1, 2): 3}, "dict", "key of type tuple"),
        ({b"a": 3}, "dict", "key of type bytes"),
        ([dict.fromkeys(["\ud800", "\udfff"])], "list", "two keys of an object become one"),
        ({1: "a", "1": "b"}, "dict", "become the same string '1'"),
        ({None: "a", "null": "b"}, "dict", "become the same string 'null'"),
        (range(10**30), "range", "OverflowError"),
    ],
)
def test_what_has_no_form_says_why(value: Any, type_name: str, detail: str) -> None:
    members = failure(value)
    assert members["type"] == type_name
    assert detail in members["detail"]


def test_what_is_shown_of_a_value_without_a_form_is_all_of_it() -> None:
    assert failure([1, {"a": math}])["repr"] == repr([1, {"a": math}])


def test_the_repr_of_what_has_no_form_is_bounded() -> None:
    class Wordy:
        def __repr__(self) -> str:
            return "x" * 10**6

    assert failure(Wordy())["repr"] == "x" * 1000


class Hostile:
    """Raises wherever it can."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise SystemExit

    __str__ = __repr__


class HostileList(list):  # type: ignore[type-arg]
    def copy(self) -> Any:
        raise SystemExit

    def __iter__(self) -> Iterator[Any]:
        raise KeyboardInterrupt


class HostileMapping(collections.UserDict):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[Any]:
        raise KeyboardInterrupt


@dataclasses.dataclass
class HostileData:
    name: str

    @property
    def name(self) -> str:  # type: ignore[no-redef]
        raise SystemExit(3)

    @name.setter
    def name(self, value: str) -> None:
        pass


class HostilePicture:
    def _repr_png_(self) -> bytes:
        raise MemoryError


class HostileMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__qualname__", "__module__", "__mro__"):
            raise ZeroDivisionError
        return super().__getattribute__(name)


class HostileKind(metaclass=HostileMeta):
    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [Hostile(), HostileMapping(a=1), HostileData("a"), HostilePicture(), HostileKind(), [Hostile()], {Hostile(): 1}],
    ids=lambda value: "value",
)
def test_methods_that_raise_never_get_out(value: Any) -> None:
    assert failure(value)["detail"]


def test_methods_of_a_list_are_not_asked() -> None:
    assert render(HostileList([1, 2])) == [1, 2]


def test_an_endless_object_is_bounded() -> None:
    class Deeper:
        def __init__(self) -> None:
            self.level = 0

        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> Any:
            if i:
                raise IndexError
            return Deeper()

    collections.abc.Sequence.register(Deeper)
    assert "nested deeper" in failure(Deeper())["detail"]


def test_a_value_that_holds_itself_has_no_form() -> None:
    items: list[Any] = [1]
    items += [items, items]
    assert failure(items)["detail"] == "a value of type list holds itself"
    members: dict[str, Any] = {}
    members["a"] = [({"b": members},)]
    assert failure(members)["detail"] == "a value of type dict holds itself"


def test_a_value_that_stands_twice_is_no_cycle() -> None:
    shared = [1]
    assert render([shared, {"a": shared}, shared]) == [[1], {"a": [1]}, [1]]


def test_as_deep_as_arguments_may_be_and_no_deeper() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = (value,)
    assert encode(value, max_bytes=ROOM)[0] == b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH
    assert "nested deeper" in failure([value])["detail"]


def test_a_value_over_the_bound_is_given_up_before_it_fills_the_memory() -> None:
    value: list[Any] = [1]
    for _ in range(60):  # 2 to the 60th elements, were it written
        value = [value, value]
    with pytest.raises(ReplyTooLarge):
        encode(value, max_bytes=1 << 16)
    with pytest.raises(ReplyTooLarge):
        encode(range(10**12), max_bytes=1 << 16)
    text = "x" * (1 << 20)
    tracemalloc.start()
    with pytest.raises(ReplyTooLarge):
        encode(text, max_bytes=1 << 16)
    assert tracemalloc.get_traced_memory()[1] < len(text)
    tracemalloc.stop()


def test_limits_of_the_interpreter_are_put_back() -> None:
    import sys

    before = sys.getrecursionlimit(), sys.get_int_max_str_digits()
    encode(10**5000, max_bytes=ROOM)
    failure(object())
    assert (sys.getrecursionlimit(), sys.get_int_max_str_digits()) == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(value=json_values)
def test_json_values_go_through_unchanged(value: Any) -> None:
    assert render(value) == value


any_text = st.text(st.characters(exclude_categories=()))
hashable = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.complex_numbers(),
        st.decimals(allow_nan=False),
        st.fractions(),
    ),
    *(st.dates(), st.times(), st.datetimes(), st.timedeltas()),
    *(any_text, st.binary(), st.uuids(), st.sampled_from(Colour), st.sampled_from(Level)),
)
any_values = st.recursive(
    hashable | st.builds(Leaf, any_text, st.dates()) | st.just(object()) | st.just(Path("x")) | st.builds(Picture),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.builds(Point, inner, inner),
        st.sets(hashable, max_size=4),
        st.dictionaries(hashable, inner, max_size=4),
        st.lists(inner, max_size=4).map(collections.deque),
    ),
    max_leaves=20,
)


@given(value=any_values, strings=st.booleans())
def test_any_value_is_strict_json_or_has_a_reason(value: Any, strings: bool) -> None:
    with contextlib.suppress(NoValue):
        render(value, strings=strings)


@given(delta=st.timedeltas(min_value=timedelta(days=-(10**6)), max_value=timedelta(days=10**6)))
def test_durations_are_exact(delta: timedelta) -> None:
    text = render(delta)
    sign = -1 if text.startswith("-") else 1
    date_part, _, time_part = text.lstrip("-")[1:].partition("T")
    total = Decimal(date_part.rstrip("D") or 0) * 86400
    for unit, seconds in (("H", 3600), ("M", 60), ("S", 1)):
        if unit in time_part:
            number, _, time_part = time_part.partition(unit)
            total += Decimal(number) * seconds
    assert sign * total * 10**6 == delta // timedelta(microseconds=1)
