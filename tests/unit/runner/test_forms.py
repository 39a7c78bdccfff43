"""The forms of a value: the first of those wanted that it has, and which it has where it has none of them."""

import array
import csv
import enum
import io
import json
import math
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure
from PIL import Image
from pydantic import BaseModel
from runner import frames
from runner.refusal import NotAcceptable, NotSerializable, ReplyTooLarge
from runner.values import forms, rendering

from orchestrator.api import accepting

from .conftest import Orchestrator, receive

mpl.use("agg")
ROOM = 1 << 24


def render(value: Any, *wanted: str, max_content_bytes: int = ROOM) -> forms.Rendered:
    return forms.render(value, wanted, max_bytes=ROOM, max_content_bytes=max_content_bytes)


def content(value: Any, form: str) -> bytes:
    rendered = render(value, form)
    assert rendered.form == form
    assert not rendered.body
    assert not rendered.files
    return bytes(rendered.content)


def available(value: Any, wanted: str) -> Sequence[str]:
    with pytest.raises(NotAcceptable) as caught:
        render(value, wanted)
    members = caught.value.members()
    assert members["code"] == "not_acceptable"
    return members["available"]  # type: ignore[no-any-return]


def enveloped(head: dict[str, Any], *files: bytes) -> bytes:
    text = json.dumps(head).encode()
    return b"".join([frames.ENVELOPE.pack(len(text)), text, *files])


def ask(session: Orchestrator, request: Any, *wanted: str, **files: bytes) -> tuple[int, dict[str, Any], bytes]:
    """The kind, body and extra of a reply."""
    assert session.calls is not None
    body = json.dumps(request).encode()
    head = {"forms": wanted, "files": [(name, len(data)) for name, data in files.items()]}
    extra = enveloped(head, *files.values())
    header = frames.HEADER.pack(frames.CALL, bytes(3), len(body), len(extra), 7)
    session.calls.sendall(header + body + extra)
    frame = receive(session.calls)
    assert frame is not None
    return frame.kind, json.loads(frame.body), frame.extra


class Colour(enum.Enum):
    RED = "red"


class Encoded(bytes, enum.Enum):
    NORTH = b"n"


class Point(NamedTuple):
    x: int
    y: Any


@dataclass
class Leaf:
    name: str
    when: date


class Model(BaseModel):
    a: int


class Drawing:
    """Shows itself as both, one of them with metadata."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return b"\x89PNG", {"width": 1}

    def _repr_svg_(self) -> str:
        return "<svg>é</svg>"


class Shy:
    """Could show itself, and does not."""

    def _repr_png_(self) -> None:
        return None


class Broken:
    def _repr_png_(self) -> bytes:
        raise SystemExit(3)

    def _repr_svg_(self) -> str:
        return "<svg/>"


# --- which form ---


def test_the_first_form_that_the_value_has_is_taken() -> None:
    assert render(b"ab", "png", "octets", "json").form == "octets"
    assert render(b"ab", "csv", "json", "octets").form == "json"
    assert render([1], "octets", "csv", "typed").form == "typed"
    assert render("a", "csv", "text").form == "text"


FIGURE = Figure()
HAVE = [
    (b"a", {"json", "typed", "octets"}),
    ("a", {"json", "typed", "text"}),
    (1, {"json", "typed", "text"}),
    (None, {"json", "typed"}),
    ([1], {"json", "typed"}),
    ([[1]], {"json", "typed", "csv"}),
    ([{"a": 1}], {"json", "typed", "csv"}),
    ({"a": 1}, {"json", "typed"}),
    (Colour.RED, {"json", "typed", "text"}),
    (np.zeros((2, 2)), {"json", "typed", "octets", "csv", "npy"}),
    (np.zeros((2, 2, 2)), {"json", "typed", "octets", "npy"}),
    (np.array([None]), {"json", "typed", "csv"}),
    (np.ma.array([1, 2], mask=[0, 1]), {"json", "typed", "csv"}),
    (np.float64(1), {"json", "typed", "text", "npy"}),
    (pd.DataFrame({"a": [1]}), {"json", "typed", "csv", "arrow"}),
    (pd.Series([1]), {"json", "typed", "csv", "arrow"}),
    (pl.DataFrame({"a": [1]}), {"json", "typed", "csv", "arrow"}),
    (pl.DataFrame({"a": pl.Series([Leaf("x", date(2020, 1, 2))], dtype=pl.Object)}), {"json", "typed", "csv"}),
    (pl.Series([1]), {"json", "typed", "csv", "arrow"}),
    (pa.table({"a": [1]}), {"arrow"}),
    (FIGURE, {"json", "typed", "png", "svg"}),
    (FIGURE.subplots(), {"json", "typed", "png", "svg"}),
    (Image.new("RGB", (1, 1)), {"json", "typed", "png"}),
    (Drawing(), {"json", "typed", "png", "svg"}),
    (object(), set()),
    (Drawing, set()),
]


@pytest.mark.parametrize(("value", "have"), HAVE, ids=[f"{i}-{type(row[0]).__name__}" for i, row in enumerate(HAVE)])
def test_a_value_without_the_forms_wanted_says_which_it_has(value: Any, have: set[str]) -> None:
    for form in frames.FORMS:
        if form in have:
            assert render(value, form).form == form
        elif form in ("json", "typed"):
            with pytest.raises(NotSerializable):
                render(value, form)
        else:
            assert set(available(value, form)) == have


def test_a_form_that_turns_out_not_to_be_there_is_not_said_to_be() -> None:
    assert available([[1, 2], [3]], "csv") == ["json", "typed"]
    assert available(pd.DataFrame({"a": [1, "x"]}), "arrow") == ["json", "typed", "csv"]
    assert available(pd.DataFrame({"a": [1, "x"]}), "png") == ["json", "typed", "csv"]
    assert "png" not in available(Shy(), "png")
    assert available(Image.new("CMYK", (1, 1)), "csv") == []  # PNG has no such mode
    assert available(Image.new("RGB", (999, 999)), "csv") == ["json", "typed", "png"]


@pytest.mark.parametrize(
    "value",
    [
        [[1]] * 20_000 + [[1, 2]],
        [[1], 2],
        [[1], Point(1, 2)],
        [{"a": 1}, {"b": 1}],
        [{"a": 1}, [1]],
        [Leaf("x", date(2020, 1, 2)), Model(a=1)],
        [[object()]],
        pd.DataFrame({"a": [object()]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_csv_is_not_said_to_be_there_where_it_would_be_refused(value: Any) -> None:
    assert "csv" not in available(value, "svg")
    with pytest.raises((NotAcceptable, NotSerializable)):
        render(value, "csv")


@pytest.mark.parametrize("value", [[object()], {"a": {(1, 2): 3}}, [iter([1])]])
def test_json_is_not_said_to_be_there_for_what_holds_a_value_without_it(value: Any) -> None:
    assert available(value, "svg") == []


def test_json_is_said_to_be_there_for_what_is_too_large() -> None:
    assert available(ENDLESS, "svg")[:2] == ["json", "typed"]


def test_a_form_in_which_rendering_fails_for_what_the_value_holds_is_one_that_it_lacks() -> None:
    twice = pd.DataFrame([[1, 2]], columns=["a", "a"])
    assert available(twice, "arrow") == ["json", "typed", "csv"]


def test_the_refusal_names_media_types() -> None:
    with pytest.raises(NotAcceptable) as caught:
        render(np.float64(1), "png")
    assert caught.value.detail.endswith("it has: application/json, multipart/form-data, text/plain, application/x-npy")


def test_media_types_are_those_of_the_orchestrator() -> None:
    assert forms.MEDIA_TYPES == accepting.MEDIA_TYPES
    assert forms.MEDIA_TYPES.keys() == frames.FORMS


def test_where_rendering_a_form_fails_the_next_is_taken_and_else_the_reason_told() -> None:
    assert render(Broken(), "png", "svg").form == "svg"
    assert render(pa.table({"a": [1]}), "json", "arrow").form == "arrow"
    with pytest.raises(NotAcceptable) as refused:
        render(Broken(), "png", "csv")
    assert "rendering it raised SystemExit: 3" in refused.value.detail
    assert refused.value.available == ["svg"]
    with pytest.raises(NotSerializable) as caught:
        render(Broken(), "png", "json")
    assert "rendering it raised SystemExit: 3" in caught.value.members["detail"]


def test_a_type_that_raises_when_looked_at_has_no_form() -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "__mro__":
                raise ZeroDivisionError
            return super().__getattribute__(name)

    class Hostile(metaclass=Meta):
        pass

    with pytest.raises(NotSerializable):
        render(Hostile(), "text")


@given(value=st.recursive(st.none() | st.integers() | st.text() | st.floats(), st.lists))
def test_json_is_as_without_a_choice(value: Any) -> None:
    rendered = render(value, "json")
    assert (rendered.body, rendered.type) == rendering.encode(value, max_bytes=ROOM)
    assert rendered.form == "json"


def test_the_type_is_named_beside_every_content() -> None:
    assert render("a", "text").type == "str"
    assert render(np.zeros(1), "npy").type == "numpy.ndarray"
    assert render([1], "json").type is None


def test_no_package_is_imported_to_recognise_a_value() -> None:
    code = """
import sys
from runner.values import forms
from runner import frames
for value in (b"a", "a", [1], [[1]], 1.5, None):
    for form in frames.FORMS:
        try:
            forms.render(value, [form], max_bytes=99, max_content_bytes=99)
        except forms.NotAcceptable:
            pass
assert not {"numpy", "pandas", "polars", "pyarrow", "matplotlib", "PIL"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_a_runner_gives_the_form_wanted_and_takes_back_what_it_gave(session: Orchestrator) -> None:
    kind, body, given = ask(session, {"namepath": "bytes.fromhex", "args": ["00ff"]}, "npy", "octets")
    assert (kind, body["form"], body["type"], given) == (frames.CONTENT, "octets", "bytes", b"\0\xff")
    tag = {"$array": "part", "dtype": "<u2", "shape": [1, 2]}
    request = {"namepath": "numpy.add", "args": [tag, tag]}
    kind, body, given = ask(session, request, "typed", part=b"\1\0\2\0")
    assert (kind, body["value"]) == (frames.VALUE, {"$array": "f0", "dtype": "<u2", "shape": [1, 2]})
    assert given == enveloped({"files": [["f0", 4]]}, b"\2\0\4\0")
    kind, body, _ = ask(session, request, "png", part=bytes(4))
    assert (kind, body["code"]) == (frames.REFUSED, "not_acceptable")
    assert body["available"] == ["json", "typed", "octets", "csv", "npy"]


# --- each form ---


def test_octets_are_the_bytes_alone() -> None:
    assert content(b"\0\xff", "octets") == b"\0\xff"
    assert content(bytearray(b"ab"), "octets") == b"ab"
    assert content(memoryview(b"abcd")[::2], "octets") == b"ac"
    assert content(memoryview(np.zeros((0, 2))), "octets") == b""
    assert content(Encoded.NORTH, "octets") == b"n"
    assert content(array.array("B", [1, 2]), "octets") == b"\1\2"
    assert content(np.array([[1, 2], [3, 4]], ">u2").T, "octets") == b"\1\0\3\0\2\0\4\0"
    assert content(np.array(5, "u1"), "octets") == b"\5"


def test_bytes_and_arrays_are_not_copied() -> None:
    data = np.arange(1000.0)
    assert np.shares_memory(np.frombuffer(render(data, "octets").content, "u1"), data)
    assert memoryview(render(bytes(1000), "octets").content).obj is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("é\u2028", "é\u2028"),
        ("a\ud800", "a\ufffd"),
        (True, "True"),
        (10**5000, "1" + "0" * 5000),
        (-1.5, "-1.5"),
        (math.nan, "nan"),
        (1 - 2j, "(1-2j)"),
        (Decimal("1.10"), "1.10"),
        (Fraction(1, 3), "1/3"),
        (datetime(2020, 1, 2, 3, 4), "2020-01-02 03:04:00"),
        (timedelta(days=1), "1 day, 0:00:00"),
        (uuid.UUID(int=0), "00000000-0000-0000-0000-000000000000"),
        (PurePosixPath("/a"), "/a"),
        (Colour.RED, "red"),
        (np.float32(0.5), "0.5"),
        (np.datetime64("2020-01-02"), "2020-01-02"),
        (pd.Period("2020-01"), "2020-01"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_single_value_is_its_plain_text(value: Any, text: str) -> None:
    assert content(value, "text").decode() == text


INDEX = pd.MultiIndex.from_tuples([("u", 1), ("v", 2)], names=["l", None])
CSV = [
    ([[1, "a"], [None, "b"]], "1,a\r\n,b\r\n"),
    (((1, 2), [3, 4]), "1,2\r\n3,4\r\n"),
    ([], ""),
    ([[]], "\r\n"),
    ([["a,b", 'c"d', "e\nf", ""]], '"a,b","c""d","e\nf",\r\n'),
    (
        [[1.5, True, math.nan, math.inf, b"a", [1, {"a": 2}]]],
        '1.5,true,,Infinity,"{""$bytes"":""YQ==""}","[1,{""a"":2}]"\r\n',
    ),
    ([[10**5000]], "1" + "0" * 5000 + "\r\n"),
    ([["\ud800"]], "\ufffd\r\n"),
    (np.array([97, 0x110000], "<u4").view("<U2"), "a\ufffd\r\n"),
    ([{"b": 1, "a": date(2020, 1, 2)}, {"a": Decimal("1.0"), "b": 2}], "b,a\r\n1,2020-01-02\r\n2,1.0\r\n"),
    ([Leaf("x", date(2020, 1, 2))], "name,when\r\nx,2020-01-02\r\n"),
    ([Point(1, 2), Point(3, None)], "x,y\r\n1,2\r\n3,\r\n"),
    ([Model(a=1)], "a\r\n1\r\n"),
    (np.array([1, 2]), "1\r\n2\r\n"),
    (np.array([[1.5, math.nan]]), "1.5,\r\n"),
    (np.array([["2020", "NaT"]], "M8[D]"), "2020-01-01,\r\n"),
    (np.array([(1, "a")], "i4,U1"), "f0,f1\r\n1,a\r\n"),
    (np.ma.array([[1, 2]], mask=[[0, 1]]), "1,\r\n"),
    (pd.DataFrame({"a": [1, 2], "b": ["x", None]}), "a,b\r\n1,x\r\n2,\r\n"),
    (pd.DataFrame({"a": [1]}, index=pd.Index([0.5], name="k")), "k,a\r\n0.5,1\r\n"),
    (pd.DataFrame({"a": [1, 2]}, index=INDEX), "l,,a\r\nu,1,1\r\nv,2,2\r\n"),
    (pd.DataFrame([[1, 2]], columns=["a", "a"]), "a,a\r\n1,2\r\n"),
    (pd.DataFrame(), ""),
    (pd.Series([1], name="s"), "s\r\n1\r\n"),
    (pl.DataFrame({"a": [1, None], "l": [[1], [2]]}), "a,l\r\n1,[1]\r\n,[2]\r\n"),
    (pl.Series("s", [1.5]), "s\r\n1.5\r\n"),
]


@pytest.mark.parametrize(("value", "text"), CSV, ids=range(len(CSV)))
def test_tables_are_csv(value: Any, text: str) -> None:
    assert content(value, "csv").decode() == text


@pytest.mark.parametrize("value", [[[1], 2], [[1], [1, 2]], [{"a": 1}, {"b": 1}], [{"a": 1}, [1]], [[1], {"a": 1}]])
def test_rows_that_differ_are_no_table(value: Any) -> None:
    assert "csv" not in available(value, "csv")


@given(rows=st.integers(1, 3).flatmap(lambda n: st.lists(st.lists(st.text(), min_size=n, max_size=n), min_size=1)))
def test_texts_come_out_of_csv_as_they_went_in(rows: list[list[str]]) -> None:
    text = content(rows, "csv").decode()
    assert list(csv.reader(io.StringIO(text, newline=""))) == rows


@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame({"a": range(25_000)}, index=np.arange(25_000) / 2),
        pl.DataFrame({"k": np.arange(25_000) / 2, "a": range(25_000)}),
        [[i / 2, i] for i in range(25_000)],
        np.rec.fromarrays([np.arange(25_000) / 2, np.arange(25_000)], names="k,a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_long_table_is_whole(value: Any) -> None:
    rows = list(csv.reader(io.StringIO(content(value, "csv").decode())))
    assert rows[-25_000:] == [[str(i / 2), str(i)] for i in range(25_000)]
    assert len(rows) <= 25_001


def test_images_are_png_and_svg() -> None:
    assert content(Drawing(), "png") == b"\x89PNG"
    assert content(Drawing(), "svg").decode() == "<svg>é</svg>"
    inner = Figure().subfigures().subplots()
    for value in (FIGURE, FIGURE.axes[0], inner):
        assert content(value, "png").startswith(b"\x89PNG\r\n")
        assert b"<svg" in content(value, "svg")
    with Image.open(io.BytesIO(content(Image.new("L", (3, 2), 7), "png"))) as image:
        assert (image.size, image.getpixel((0, 0))) == ((3, 2), 7)


def test_tables_are_arrow_streams() -> None:
    frame = pd.DataFrame({"a": [1, None], "b": ["x", "y"], "t": pd.to_datetime(["2020", "2021"])}, index=["p", "q"])
    pd.testing.assert_frame_equal(pa.ipc.open_stream(content(frame, "arrow")).read_pandas(), frame)
    narrow = pl.DataFrame({"a": [1, None], "l": [[1], [2]]})
    assert pl.read_ipc_stream(content(narrow, "arrow")).equals(narrow)
    table = pa.table({"a": [1, 2]})
    assert pa.ipc.open_stream(content(table, "arrow")).read_all() == table
    assert pa.ipc.open_stream(content(table.to_batches()[0], "arrow")).read_all() == table
    assert pl.read_ipc_stream(content(pl.Series("s", [1]), "arrow")).columns == ["s"]


def test_a_frame_of_pandas_is_an_arrow_stream_only_where_pyarrow_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "arrow" not in available(pd.DataFrame({"a": [1]}), "png")
    assert "arrow" in available(pl.DataFrame({"a": [1]}), "png")


@given(value=hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
def test_any_array_comes_out_of_npy_as_it_went_in(value: Any) -> None:
    loaded = np.load(io.BytesIO(content(value, "npy")), allow_pickle=False)
    assert (loaded.dtype, loaded.shape) == (value.dtype, value.shape)
    assert loaded.tobytes() == value.tobytes()


def test_a_scalar_of_numpy_is_an_npy_file() -> None:
    assert np.load(io.BytesIO(content(np.int8(-5), "npy"))) == -5


# --- bounds ---

ENDLESS = np.lib.stride_tricks.as_strided(np.zeros(1), (10**6, 10**6), (0, 0))
LARGE = [
    ("octets", bytes(101)),
    ("octets", ENDLESS),
    ("text", "é" * 51),
    ("text", "a" * 101),
    ("csv", [[i, i] for i in range(30)]),
    ("csv", ENDLESS),
    ("csv", [[range(10**12)]]),
    ("csv", [{"a": range(10**12)}]),
    ("png", FIGURE),
    ("svg", FIGURE),
    ("arrow", pd.DataFrame({"a": range(20)})),
    ("arrow", pl.DataFrame({"a": range(20)})),
    ("arrow", pl.DataFrame({"a": [1]})),
    ("arrow", pa.table({"a": [1]})),
    ("npy", np.zeros(2)),
    ("npy", ENDLESS),
    ("typed", ENDLESS),
]


@pytest.mark.parametrize(("form", "value"), LARGE, ids=[f"{i}-{row[0]}" for i, row in enumerate(LARGE)])
def test_content_past_its_bound_is_refused(form: str, value: Any) -> None:
    with pytest.raises(ReplyTooLarge) as caught:
        render(value, form, "json", max_content_bytes=100)
    assert caught.value.members == {"code": "reply_too_large", "detail": "the value takes more than 100 bytes"}


def test_content_as_large_as_its_bound_is_taken() -> None:
    for form, value in (("octets", bytes(100)), ("text", "é" * 50), ("csv", [["a" * 98]]), ("typed", bytes(100))):
        assert render(value, form, max_content_bytes=100).form == form


things = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())) | st.binary() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.builds(Point, inner, inner),
    max_leaves=8,
)


@given(value=things, wanted=st.lists(st.sampled_from(sorted(frames.FORMS)), min_size=1, unique=True))
def test_any_value_has_one_of_the_forms_wanted_or_says_why_not(value: Any, wanted: list[str]) -> None:
    form, others = None, set[str]()
    try:
        form = render(value, *wanted).form
    except NotAcceptable as refusal:
        others = set(refusal.available)
    assert form in wanted or others.isdisjoint(wanted)
