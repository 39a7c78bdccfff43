"""Values of packages that the runner knows by name only."""

import base64
import datetime
import math
from decimal import Decimal
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from pydantic import BaseModel, RootModel

from .test_values import failure, render

mpl.use("agg")


class Inner(BaseModel):
    when: datetime.date


class Outer(BaseModel):
    inner: list[Inner]
    amount: Decimal


NUMPY = [
    (np.int64(12), 12),
    (np.uint8(255), 255),
    (np.float64(1.5), 1.5),
    (np.float32(0.5), 0.5),
    (np.float16(0.5), 0.5),
    (np.longdouble(1.5), 1.5),
    (np.bool_(True), True),
    (np.str_("é"), "é"),
    (np.bytes_(b"ab"), {"$bytes": "YWI="}),
    (np.complex64(1 + 2j), [1.0, 2.0]),
    (np.clongdouble(1 + 2j), [1.0, 2.0]),
    (np.float64("nan"), None),
    (np.datetime64("2020-01-02"), "2020-01-02"),
    (np.datetime64("2020-01-02T03:04:05"), "2020-01-02T03:04:05"),
    (np.datetime64("NaT"), None),
    (np.timedelta64(90, "m"), "PT1H30M"),
    (np.timedelta64(-3, "ns"), "-PT0.000000003S"),
    (np.timedelta64(5, "ps"), "PT0.000000000005S"),
    (np.timedelta64(2, "W"), "P14D"),
    (np.timedelta64(3, "Y"), "P3Y"),
    (np.timedelta64(-3, "M"), "-P3M"),
    (np.timedelta64(5), 5),
    (np.timedelta64("NaT"), None),
    (np.array(5), 5),
    (np.array(["2020-01-02"], dtype="M8[D]"), ["2020-01-02"]),
    (np.zeros((2, 1), dtype=[]), [[{}], [{}]]),
    (np.arange(6).reshape(1, 2, 3), [[[0, 1, 2], [3, 4, 5]]]),
    (np.arange(6).reshape(2, 3).T, [[0, 3], [1, 4], [2, 5]]),
    (np.zeros((2, 0, 3)), [[], []]),
    (np.array([], dtype="c8"), []),
    (np.array([[1 + 2j], [3]]), [[[1.0, 2.0]], [[3.0, 0.0]]]),
    (np.array([1, math.nan, math.inf]), [1.0, None, None]),
    (np.array([1, 2], dtype=">i2"), [1, 2]),
    (np.array([1.5], dtype=np.longdouble), [1.5]),
    (np.array([True, False]), [True, False]),
    (np.array([["a"], ["bc"]]), [["a"], ["bc"]]),
    (np.array(["a"], dtype=np.dtypes.StringDType()), ["a"]),
    (np.array([b"a"]), [{"$bytes": "YQ=="}]),
    (np.array([b"a"], dtype="V2"), [{"$bytes": "YQA="}]),
    (np.array([b"a"], dtype=(np.record, "V2")), [{"$bytes": "YQA="}]),  # of a type of its own, and yet of numpy's
    (np.array([None, {1: 2}, Decimal("1.0")], dtype=object), [None, {"1": 2}, "1.0"]),
    (np.array([["2020-01-02", "NaT"]], dtype="M8[s]"), [["2020-01-02T00:00:00", None]]),
    (np.array([[1, "NaT"]], dtype="m8[h]"), [["PT1H", None]]),
    (np.array([[(1, b"x", [1, 2])]], dtype="i4,S1,(2,)f4"), [[{"f0": 1, "f1": {"$bytes": "eA=="}, "f2": [1.0, 2.0]}]]),
    (np.array((1, 2), dtype="i4,i4"), {"f0": 1, "f1": 2}),
    (np.array((1, 2), dtype="i4,i4")[()], {"f0": 1, "f1": 2}),
    (
        np.array([(1, (2, "2020"))], dtype=[("a", "i4"), ("b", [("c", "i4"), ("d", "M8[Y]")])]),
        [{"a": 1, "b": {"c": 2, "d": "2020"}}],
    ),
    (np.ma.array([[1, 2], [3, 4]], mask=[[0, 1], [0, 0]]), [[1, None], [3, 4]]),
    (np.ma.array([1.0, 2.0]), [1.0, 2.0]),
    (np.ma.array([(1, 2)], mask=[(0, 1)], dtype="i4,i4"), [{"f0": 1, "f1": None}]),
    (np.ma.masked, None),
    ({np.int64(1): np.float32(2), np.str_("a"): 3}, {"1": 2.0, "a": 3}),
    ([np.int64(1), np.array([2])], [1, [2]]),
]
DAY = pd.Timestamp("2020-01-02")
PANDAS = [
    (pd.DataFrame({"a": [1, 2], "b": ["x", None]}), {"columns": ["a", "b"], "data": [[1, "x"], [2, None]]}),
    (
        pd.DataFrame({"a": [1.5, math.nan]}, index=["p", "q"]),
        {"columns": ["a"], "index": ["p", "q"], "data": [[1.5], [None]]},
    ),
    (pd.DataFrame({"a": [1, 2]}).iloc[1:], {"columns": ["a"], "index": [1], "data": [[2]]}),
    (
        pd.DataFrame({"t": [DAY, None], "c": pd.Categorical(["u", "v"]), "n": pd.array([1, None], dtype="Int64")}),
        {"columns": ["t", "c", "n"], "data": [["2020-01-02T00:00:00", "u", 1], [None, "v", None]]},
    ),
    (pd.DataFrame([[1, 2]], columns=["a", "a"]), {"columns": ["a", "a"], "data": [[1, 2]]}),
    (pd.DataFrame({("a", 1): [1]}), {"columns": [["a", 1]], "data": [[1]]}),
    (pd.DataFrame({"a": [1]}, index=[DAY]), {"columns": ["a"], "index": ["2020-01-02T00:00:00"], "data": [[1]]}),
    (pd.DataFrame(index=range(2)), {"columns": [], "data": [[], []]}),
    (pd.Series([1, 2], name="s"), {"name": "s", "data": [1, 2]}),
    (pd.Series([1], index=[5]), {"name": None, "index": [5], "data": [1]}),
    (pd.Index([1, 2]), [1, 2]),
    (pd.array([1, None], dtype="Int64"), [1, None]),
    (DAY, "2020-01-02T00:00:00"),
    (DAY.tz_localize("UTC"), "2020-01-02T00:00:00+00:00"),
    (pd.NaT, None),
    (pd.NA, None),
    (pd.Timedelta("1D 3ns"), "P1DT0.000000003S"),
    (pd.Period("2020-01"), "2020-01"),
    (pd.Interval(0, 1), "(0, 1]"),
]
POLARS = [
    (
        pl.DataFrame({"a": [1, None], "d": [datetime.date(2020, 1, 2)] * 2, "l": [[1], [2, 3]]}),
        {"columns": ["a", "d", "l"], "data": [[1, "2020-01-02", [1]], [None, "2020-01-02", [2, 3]]]},
    ),
    (pl.DataFrame(), {"columns": [], "data": []}),
    (pl.Series("s", [1.5, math.nan]), {"name": "s", "data": [1.5, None]}),
]
PYDANTIC = [
    (
        Outer(inner=[Inner(when=datetime.date(2020, 1, 2))], amount=Decimal("1.0")),
        {"inner": [{"when": "2020-01-02"}], "amount": "1.0"},
    ),
    (RootModel[list[int]]([1, 2]), [1, 2]),
]


@pytest.mark.parametrize(
    ("value", "expected"),
    NUMPY + PANDAS + POLARS + PYDANTIC,
    ids=lambda value: type(value).__name__,
)
def test_values_of_packages_have_their_form(value: Any, expected: Any) -> None:
    rendered = render(value)
    assert rendered == expected
    assert type(rendered) is type(expected)
    assert render([value]) == [expected]


def test_numbers_that_are_no_character_s_are_replaced() -> None:
    """As numpy makes texts of them: those of `np.empty`, for one."""
    array = np.array([97, 0xFFFFFFFF, 0x110000, 0x10FFFF], "<u4").view("<U4")
    assert render(array) == ["a\ufffd\ufffd\U0010ffff"]
    assert render({array.tolist()[0]: math.nan}) == {"a\ufffd\ufffd\U0010ffff": None}


def test_models_of_the_first_pydantic_have_their_form() -> None:
    class BaseModel:
        """As pydantic 1 has it: `dict`, and no `model_dump`."""

        def dict(self) -> dict[str, Any]:
            return {"when": datetime.date(2020, 1, 2)}

    BaseModel.__module__ = "pydantic.main"
    assert render(BaseModel()) == {"when": "2020-01-02"}


def test_images_and_figures_are_png() -> None:
    figure = Figure()
    axes = figure.subplots()
    for value in (Image.new("RGB", (2, 2)), figure, axes):
        rendered = render(value)
        assert rendered["type"] == "image/png"
        assert base64.b64decode(rendered["$image"]).startswith(b"\x89PNG\r\n")


def test_a_lazy_frame_has_no_form() -> None:
    assert failure(pl.LazyFrame({"a": [1]}))["type"].endswith("LazyFrame")


def test_an_array_that_holds_itself_has_no_form() -> None:
    cyclic = np.empty(1, dtype=object)
    cyclic[0] = cyclic
    assert failure(cyclic)["detail"] == "a value of type numpy.ndarray holds itself"


@given(
    data=st.data(),
    dtype=st.sampled_from(["i1", "u2", "<i4", ">i8", "u8", "f2", "f4", ">f8", "?", "O"]),
    shape=st.lists(st.integers(0, 4), max_size=3),
)
def test_an_array_of_any_shape_is_what_tolist_makes_of_it(data: st.DataObject, dtype: str, shape: list[int]) -> None:
    values = data.draw(st.lists(st.integers(0, 100), min_size=math.prod(shape), max_size=math.prod(shape)))
    array = np.array(values).reshape(shape).astype(dtype)
    assert render(array) == array.tolist()
