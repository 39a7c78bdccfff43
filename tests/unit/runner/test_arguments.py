import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner.evaluation import arguments
from runner.evaluation.arguments import Reader
from runner.evaluation.references import References
from runner.evaluation.strict import MAX_DEPTH
from runner.refusal import InvalidRequest


def parse(body: bytes) -> arguments.Request:
    """Of a session that keeps nothing."""
    nothing = References(max_references=1, max_bytes=1, first=True)
    return arguments.parse(body, Reader(lambda: nothing))


def request(**members: Any) -> bytes:
    return json.dumps({"namepath": "len", **members}).encode()


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert caught.value.code == "invalid_request"
    return caught.value


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": }', "not JSON"),
        (b'{"a": 1}}', "not JSON"),
        (b'{"namepath": "len"} x', "not JSON"),
        (b"[]", "JSON object"),
        (b'"x"', "JSON object"),
        (b'{"namepath": "\xff"}', "not UTF-8: byte 14"),
        ('{"namepath": "len"}'.encode("utf-16"), "not UTF-8"),
        (b'\xef\xbb\xbf{"namepath": "len"}', "not JSON"),
        (b'{"namepath": "len", "namepath": "abs"}', "the member 'namepath' is there twice"),
        (b'{"namepath": "len", "args": [{"a": 1, "b": 2, "a": 3}]}', "'a' is there twice"),
        (b'{"namepath": "len", "args": ["\\ud800"]}', "lone surrogate"),
        (b'{"namepath": "len", "args": [{"\\uDFFF": 1}]}', "lone surrogate"),
        (b'{"namepath": "len", "args": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "nested deeper"),
        (b'{"namepath": "len", "args": [' + b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH + b"]}", "nested deeper"),
    ],
)
def test_what_is_no_strict_json_object_is_refused(body: bytes, detail: str) -> None:
    refused = refusal(body)
    assert detail in refused.detail
    assert (refused.field is not None) == ("twice" in detail)


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"argz": []}, "argz"),
        ({"tuple": {}}, "tuple"),
        ({"tuple": [], "args": []}, "tuple"),
        ({"keep": 1}, "keep"),
        ({"keep": None}, "keep"),
        ({"drop": "r1"}, "drop"),
        ({"drop": None}, "drop"),
        ({"drop": [1]}, "drop[0]"),
        ({"args": 1}, "args"),
        ({"args": "x"}, "args"),
        ({"args": None}, "args"),
        ({"kwargs": []}, "kwargs"),
        ({"args": {"x": 1}, "kwargs": {"x": 2}}, "kwargs"),
        ({"namepath": []}, "namepath"),
        ({"namepath": ""}, "namepath"),
        ({"namepath": "a..b"}, "namepath"),
        ({"namepath": None}, "namepath"),
        ({"namepath": {"name": "len"}}, "namepath"),
        ({"namepath": ["math", 1]}, "namepath[1]"),
        ({"namepath": ["math", ""]}, "namepath[1]"),
        ({"namepath": ["math", ["sqrt"]]}, "namepath[1]"),
        ({"namepath": [{}]}, "namepath[0]"),
        ({"namepath": [{"args": []}]}, "namepath[0]"),
        ({"namepath": [{"name": "a", "moduleName": "a"}]}, "namepath[0]"),
        ({"namepath": [{"name": 1}]}, "namepath[0].name"),
        ({"namepath": [{"moduleName": "a."}]}, "namepath[0].moduleName"),
        ({"namepath": [{"name": "a", "args": 1}]}, "namepath[0].args"),
        ({"namepath": ["x", {"name": "a", "kwargs": 1}]}, "namepath[1].kwargs"),
        ({"namepath": ["x", {"name": "a", "arg": 1}]}, "namepath[1].arg"),
        ({"namepath": [{"ref": 1}]}, "namepath[0].ref"),
        ({"namepath": ["x", {"ref": "r1"}]}, "namepath[1].ref"),
        ({"namepath": [{"ref": "r1", "name": "a"}]}, "namepath[0]"),
        ({"namepath": [{"name": "a", "tuple": {}}]}, "namepath[0].tuple"),
        ({"namepath": [{"name": "a", "tuple": [], "args": []}]}, "namepath[0].tuple"),
    ],
)
def test_a_wrong_member_is_named(members: dict[str, Any], field: str) -> None:
    assert refusal(request(**members)).field == field


def test_a_missing_namepath_is_named() -> None:
    assert refusal(b"{}").field == "namepath"


def test_the_session_and_the_timeout_are_not_the_runners_to_read() -> None:
    assert parse(request(sessionid="x", timeout="20000")).positional == []


def test_arguments_may_be_a_list_or_an_object() -> None:
    assert parse(request(args=[1, 2], kwargs={"a": 3})).positional == [1, 2]
    assert parse(request(args=[1, 2], kwargs={"a": 3})).keywords == {"a": 3}
    assert parse(request(args={"a": 1}, kwargs={"b": 2})).keywords == {"a": 1, "b": 2}


def test_numbers_that_are_not_finite_are_accepted() -> None:
    nan, inf, minus = parse(b'{"namepath": "len", "args": [NaN, Infinity, -Infinity]}').positional
    assert math.isnan(nan)
    assert (inf, minus) == (math.inf, -math.inf)


def test_integers_of_any_size_come_exactly() -> None:
    digits = "7" * 9000
    (number,) = parse(b'{"namepath": "len", "args": [' + digits.encode() + b"]}").positional
    assert number % 10**50 == int(digits[-50:])
    assert number.bit_length() == 29897


def test_nesting_up_to_the_limit_is_accepted() -> None:
    depth = MAX_DEPTH - 2
    (nested,) = parse(b'{"namepath": "len", "args": [' + b"[" * depth + b"]" * depth + b"]}").positional
    for _ in range(depth - 1):
        (nested,) = nested
    assert nested == []


def test_many_brackets_are_not_deep() -> None:
    assert len(parse(request(args=[[[i] for i in range(5000)]])).positional[0]) == 5000
    assert parse(request(args=["[" * 5000])).positional == ["[" * 5000]


def test_a_dotted_string_stands_for_its_list_wherever_it_is() -> None:
    names = [
        [step.name for step in parse(request(namepath=path)).steps] for path in ("a.b.c", ["a.b", "c"], ["a", "b", "c"])
    ]
    assert names == [["a", "b", "c"]] * 3
    steps = parse(request(namepath=["a", {"name": "b.c", "args": [1]}])).steps
    assert [(step.name, step.positional, step.field) for step in steps] == [
        ("a", None, "namepath[0]"),
        ("b", None, "namepath[1]"),
        ("c", [1], "namepath[1]"),
    ]


def test_a_module_name_stays_whole() -> None:
    (step,) = parse(request(namepath=[{"moduleName": "xml.etree.ElementTree"}])).steps
    assert (step.name, step.is_module) == ("xml.etree.ElementTree", True)


def test_empty_arguments_of_an_element_are_a_call_and_none_are_not() -> None:
    steps = parse(request(namepath=["a", {"name": "b"}, {"name": "c", "args": []}, {"name": "d", "kwargs": {}}])).steps
    assert [step.positional for step in steps] == [None, None, [], []]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(args=st.lists(json_values), ascii_only=st.booleans())
def test_arguments_come_as_they_were_sent(args: list[Any], ascii_only: bool) -> None:
    body = json.dumps({"namepath": "len", "args": args}, ensure_ascii=ascii_only).encode()
    assert parse(body).positional == args


@given(body=st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | json_values.map(json.dumps).map(str.encode))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        parse(body)
