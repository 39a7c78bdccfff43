"""Typed arguments: protocol section 3."""

import sys
from decimal import Decimal
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner import frames

from .in_process import Session


@pytest.fixture
def session() -> Session:
    return Session()


def test_the_value_is_made_by_its_type(session: Session) -> None:
    entry = {"value": "3.7", "type": ["decimal", "Decimal"]}
    assert session.call([{"name": "repr"}], tuple=[entry]).value == "Decimal('3.7')"


def test_an_array_is_one_argument_each_of_whose_elements_is_made(session: Session) -> None:
    assert session.call("sum", tuple=[{"array": ["1", "2"], "type": ["int"]}, {"5": "int"}]).value == 8


def test_the_compact_form_has_the_value_as_its_key(session: Session) -> None:
    reply = session.call("type", tuple=[{"255": ["numpy", "uint8"]}])
    assert reply.body["repr"] == "<class 'numpy.uint8'>"


def test_a_type_may_be_a_dotted_string_a_function_or_a_submodules(session: Session) -> None:
    assert session.call("str", tuple=[{"a/b": "os.path.basename"}]).value == "b"
    assert session.call("str", tuple=[{"value": 9, "type": "math.sqrt"}]).value == "3.0"
    assert session.call("str", tuple=[{"<a/>": ["xml", "etree", "ElementTree", "fromstring"]}]).value.startswith(
        "<Element 'a'"
    )


def test_the_words_of_the_other_forms_may_be_values_of_the_compact_form(session: Session) -> None:
    assert session.call("str.upper", tuple=[{"value": ["str"]}]).value == "VALUE"


def test_an_element_has_a_tuple_of_its_own_which_goes_first(session: Session) -> None:
    namepath = ["operator", {"name": "sub", "tuple": [{"10": "int"}]}]
    assert session.call(namepath, tuple=[{"4": "int"}]).value == 6
    inner = [{"moduleName": "fractions"}, {"name": "Fraction", "tuple": [{"1": "int"}, {"3": "int"}]}, "denominator"]
    assert session.call(inner).value == 3


def test_keyword_arguments_may_stand_beside_a_tuple(session: Session) -> None:
    assert session.call("int", tuple=[{"ff": "str"}], kwargs={"base": 16}).value == 255


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ("1", "tuple[0]"),
        ({}, "tuple[0]"),
        ({"1": "int", "2": "int"}, "tuple[0]"),
        ({"type": "int"}, "tuple[0]"),
        ({"type": "int", "value": 1, "array": [1]}, "tuple[0]"),
        ({"type": "int", "array": "12"}, "tuple[0].array"),
        ({"type": "int", "valeu": 1}, "tuple[0].valeu"),
        ({"type": 1, "value": 1}, "tuple[0].type"),
        ({"type": [], "value": 1}, "tuple[0].type"),
        ({"type": [1], "value": 1}, "tuple[0].type"),
        ({"type": "a..b", "value": 1}, "tuple[0].type"),
        ({"1": {"name": "int"}}, "tuple[0].type"),
        ({"value": 1}, "tuple[0].type"),
    ],
)
def test_an_entry_that_is_none_of_the_forms_is_refused(session: Session, entry: Any, field: str) -> None:
    assert session.call("len", tuple=[entry]).refused == ("invalid_request", field)


def test_what_is_no_type_is_told_what_one_is(session: Session) -> None:
    for entry in ({"value": 1}, {"1": {"name": "int"}}, {"value": 1, "type": None}):
        assert "a type has to be" in session.call("len", tuple=[entry]).body["detail"]


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ("nothing_there.int", "name_not_found"),
        (["decimal", "Decimall"], "attribute_not_found"),
        (["math", "pi"], "not_callable"),
    ],
)
def test_a_type_that_cannot_be_resolved_is_refused_with_its_position(session: Session, named: Any, code: str) -> None:
    entries = [{"1": "int"}, {"value": 1, "type": named}]
    assert session.call("max", tuple=entries).refused == (code, "tuple[1].type")
    namepath = ["math", {"name": "gcd", "tuple": entries}]
    assert session.call(namepath).refused == (code, "namepath[1].tuple[1].type")


def test_a_type_that_raises_is_an_exception_at_its_position(session: Session) -> None:
    reply = session.call("max", tuple=[{"1": "int"}, {"x": "int"}])
    assert reply.raised[0] == "ValueError"
    assert reply.body["field"] == "tuple[1]"
    reply = session.call("max", tuple=[{"array": ["1", "x"], "type": "int"}])
    assert reply.body["field"] == "tuple[0].array[1]"


def test_a_type_whose_module_fails_to_import_is_an_exception_at_its_position(
    session: Session, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_type.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    reply = session.call("max", tuple=[{"1": "broken_type.int"}])
    assert reply.raised[0] == "ZeroDivisionError"
    assert reply.body["field"] == "tuple[0]"


def test_whatever_a_type_raises_is_the_users(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("leaving")
    module.leave = sys.exit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "leaving", module)
    reply = session.call("str", tuple=[{"value": 3, "type": "leaving.leave"}])
    assert reply.raised == ("SystemExit", "3")
    assert reply.kind == frames.RAISED


def test_arguments_for_what_is_not_callable_are_refused_by_their_member(session: Session) -> None:
    assert session.call("math.pi", tuple=[{"1": "int"}]).refused == ("not_callable", "tuple")
    assert session.call("math.pi", tuple=[]).value > 3


TYPES: list[tuple[Any, Any, st.SearchStrategy[Any]]] = [
    ("int", int, st.integers().map(str)),
    (["float"], float, st.floats(allow_nan=False).map(repr)),
    (["decimal", "Decimal"], Decimal, st.decimals(allow_nan=False).map(str)),
    (["numpy", "float64"], np.float64, st.floats(allow_nan=False)),
    ("numpy.int16", np.int16, st.integers(-(2**15), 2**15 - 1)),
    ("str", str, st.text()),
    ("bytes.fromhex", bytes.fromhex, st.binary().map(bytes.hex)),
]
SESSION = Session()


@given(data=st.data())
def test_typed_arguments_are_what_python_makes_of_them(data: st.DataObject) -> None:
    entries: list[dict[str, Any]] = []
    expected: list[Any] = []
    for named, made, values in data.draw(st.lists(st.sampled_from(TYPES), max_size=4)):
        value = data.draw(values)
        if data.draw(st.booleans()):
            entries.append({"array": [value, value], "type": named})
            expected.append([made(value), made(value)])
        elif type(value) is str and data.draw(st.booleans()) and value != "type":
            entries.append({value: named})
            expected.append(made(value))
        else:
            entries.append({"value": value, "type": named})
            expected.append(made(value))
    for entry, value in zip(entries, expected, strict=True):
        assert SESSION.call("repr", tuple=[entry]).value == repr(value)
