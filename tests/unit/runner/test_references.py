"""What a session keeps: `keep`, `$ref`, `ref`, `drop` and the list of it all."""

import itertools
import re
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner import frames
from runner.evaluation import sizes
from runner.evaluation.sizes import estimate

from .in_process import LIMITS, Session


@pytest.fixture
def session() -> Session:
    return Session()


def test_a_kept_object_is_shown_by_name_type_and_repr(session: Session) -> None:
    reply = session.call("fractions.Fraction", 1, 3, keep=True)
    assert reply.value == {"$ref": "r1", "type": "fractions.Fraction", "repr": "Fraction(1, 3)"}


def test_a_reference_is_that_object_anywhere_in_the_arguments(session: Session) -> None:
    name = session.keep("list", [1])
    session.call("list.append", {"$ref": name}, 2)
    assert session.call("copy.copy", [{"a": {"$ref": name}}]).value == [{"a": [1, 2]}]
    assert session.call("operator.is_", {"$ref": name}, {"$ref": name}).value is True


def test_a_reference_goes_in_again_as_it_came(session: Session) -> None:
    shown = session.call("list", [1], keep=True).value
    session.call("list.append", shown, 2)
    assert session.call("copy.copy", [{"a": shown}]).value == [{"a": [1, 2]}]
    session.call("math.sqrt", 4, drop=[shown["$ref"]])
    assert session.call("len", [shown]).refused == ("reference_not_found", "args[0][0]")


def test_a_reference_may_be_the_first_element_of_a_namepath(session: Session) -> None:
    name = session.keep("fractions.Fraction", 1, 3)
    assert session.call([{"ref": name}, "denominator"]).value == 3
    assert session.call([{"ref": name}]).value == "1/3"
    assert session.call([{"ref": name}, "__add__"], 1).value == "4/3"


def test_a_kept_callable_is_called(session: Session) -> None:
    name = session.keep("operator.itemgetter", 1)
    assert session.call([{"ref": name}], "abc").value == "b"
    assert session.call([{"ref": name, "args": ["xyz"]}]).value == "y"
    assert session.call([{"ref": name, "args": ["xyz"]}, "upper"]).value == "Y"


def test_an_iterator_is_kept_as_it_is(session: Session) -> None:
    name = session.keep("iter", [1, 2, 3])
    assert session.call("next", {"$ref": name}).value == 1
    assert session.call("list", {"$ref": name}).value == [2, 3]


def test_a_dropped_object_is_gone(session: Session) -> None:
    name = session.keep("list", [1])
    assert session.ask(frames.CALL, {"drop": [name]}).value is None
    assert session.call("len", {"$ref": name}).refused == ("reference_not_found", "args[0]")
    assert session.call([{"ref": name}]).refused == ("reference_not_found", "namepath[0].ref")
    assert session.ask(frames.CALL, {"drop": [name]}).refused == ("reference_not_found", "drop[0]")


def test_an_object_may_be_used_and_dropped_by_one_call(session: Session) -> None:
    name = session.keep("list", [1])
    assert session.call("len", {"$ref": name}, drop=[name, name]).value == 1
    assert session.kept() == []


def test_a_request_that_is_refused_drops_nothing(session: Session) -> None:
    name = session.keep("list", [1])
    assert session.call("math.nothing", drop=[name]).refused[0] == "attribute_not_found"
    assert session.call("len", drop=[name, "r99"]).refused == ("reference_not_found", "drop[1]")
    request = {"namepath": "math.sqrt", "args": [4], "drop": [name]}
    assert session.ask(frames.CALL, request, forms=["png"]).refused[0] == "not_acceptable"
    assert session.kept() == [name]


@pytest.mark.parametrize("failing", ["math.sqrt", "type"])
@pytest.mark.parametrize("keep", [True, False])
def test_a_call_that_ran_has_dropped_whatever_it_came_to(session: Session, failing: str, keep: bool) -> None:
    name = session.keep("list", [1])
    session.call(failing, {"$ref": name}, drop=[name], keep=keep)
    assert name not in session.kept()


def test_the_repr_of_what_is_long_is_its_beginning(session: Session) -> None:
    for long in ([1] * 10_000, "x" * 10_000, {str(i): i for i in range(2000)}):
        assert session.call("copy.copy", long, keep=True).value["repr"] == repr(long)[:1000]


@pytest.mark.parametrize("members", [{"args": []}, {"keep": True}, {"kwargs": {}}, {"tuple": []}])
def test_only_a_call_that_just_drops_needs_no_namepath(session: Session, members: dict[str, Any]) -> None:
    assert session.ask(frames.CALL, {"drop": [], **members}).refused == ("invalid_request", "namepath")


def test_no_more_are_kept_than_the_bound_and_nothing_runs(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    module = ModuleType("counting")
    module.run = lambda: ran.append(1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "counting", module)
    names = [session.keep("list") for _ in range(LIMITS["max_references"])]
    assert session.call("counting.run", keep=True).refused == ("too_many_references", "keep")
    assert ran == []
    assert session.kept() == names
    assert session.call("counting.run", keep=True, drop=names[:1]).value["$ref"] not in names
    assert ran == [1]


def test_no_more_memory_is_kept_than_the_bound(session: Session) -> None:
    name = session.keep("bytes", 700_000)
    reply = session.call("bytes", 700_000, keep=True)
    assert (reply.kind, reply.body["code"]) == (frames.UNSERIALISABLE, "reference_too_large")
    assert session.kept() == [name]
    assert session.call("bytes", 700_000, keep=True, drop=[name]).value["$ref"] != name


def test_a_name_that_cannot_be_told_is_not_kept() -> None:
    session = Session({"max_reply_bytes": 100})
    reply = session.call("str", "x" * 200, keep=True)
    assert reply.body["code"] == "reply_too_large"
    assert Session({"max_reply_bytes": 1024}).kept() == []
    assert session.kept() == []


def test_the_list_shows_what_is_kept_oldest_first(session: Session) -> None:
    session.keep("bytes", 10_000)
    session.keep("int", 1)
    first, second = session.ask(frames.REFERENCES).value
    assert (first["$ref"], first["type"], second["$ref"], second["repr"]) == ("r1", "bytes", "r2", "1")
    assert 10_000 <= first["bytes"] < 10_100


def test_names_are_never_given_twice(session: Session) -> None:
    names = [session.keep("list", drop=[]) for _ in range(3)]
    session.ask(frames.CALL, {"drop": names})
    assert session.keep("list") not in names


def test_names_of_a_later_worker_are_not_those_of_an_earlier() -> None:
    names = {Session(first=False).keep("list") for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch("r[0-9a-f]{8}-1", name) for name in names)
    later = Session(first=False)
    assert later.call("len", {"$ref": later.keep("list", [1, 2])}).value == 2
    assert later.call("len", [{"$ref": "r1"}]).refused == ("reference_not_found", "args[0][0]")


def test_what_is_kept_is_shown_as_json_even_if_another_form_is_liked_better(session: Session) -> None:
    request = {"namepath": "list", "keep": True}
    assert session.ask(frames.CALL, request, forms=["text", "json"]).value["$ref"] == "r1"
    reply = session.ask(frames.CALL, request, forms=["text", "csv"])
    assert reply.refused[0] == "not_acceptable"
    assert reply.body["available"] == ["json", "typed"]
    assert session.kept() == ["r1"]


def test_what_is_kept_is_a_tag_in_the_typed_form_too_and_data_that_looks_like_it_is_not(session: Session) -> None:
    shown = {"$ref": "r1", "type": "list", "repr": "[]"}
    assert session.ask(frames.CALL, {"namepath": "list", "keep": True}, forms=["typed"]).value == shown
    alike = {"namepath": "dict", "args": [{"$object": shown}]}
    assert session.ask(frames.CALL, alike, forms=["typed"]).value == {"$object": shown}


# --- sizes ---


def test_arrays_and_frames_are_as_large_as_they_say() -> None:
    assert estimate(np.zeros(1000)) == 8000
    assert estimate(pd.DataFrame({"a": np.zeros(1000)})) >= 8000
    assert estimate([np.zeros(1000), {"a": np.zeros(1000)}]) >= 16_000


def test_what_an_object_holds_counts_once() -> None:
    class Holder:
        def __init__(self, held: Any) -> None:
            self.held = held

    data = bytes(10_000)
    assert 10_000 < estimate(Holder(data)) < 12_000
    assert 10_000 < estimate([Holder(data), data, (data,), {data}]) < 13_000


def test_circles_end() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert estimate(circle) > 0


def test_no_more_objects_are_looked_at_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "_MOST_OBJECTS", 100)
    long = [float(i) for i in range(10_000)]
    assert sys.getsizeof(long) <= estimate(long) < sys.getsizeof(long) + 100 * 64


def test_methods_of_the_users_cannot_break_the_estimate() -> None:
    class Hostile:
        nbytes = property(lambda _: 1 / 0)

        def __sizeof__(self) -> int:
            raise SystemExit

    class Lying:
        nbytes = -5

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    class Endless(list[Any]):
        def __iter__(self) -> Any:
            return itertools.count()

    assert estimate(Hostile()) >= 0
    assert estimate(Lying()) == 0
    assert estimate(Endless([1])) > 0


operations = st.lists(st.tuples(st.sampled_from(["keep", "drop", "use"]), st.integers(0, 5)), max_size=20)


@given(operations=operations)
def test_references_behave_like_a_dictionary(operations: list[tuple[str, int]]) -> None:
    session = Session()
    model: dict[str, int] = {}
    for number, (operation, index) in enumerate(operations):
        name = f"r{index}"
        if operation == "keep" and len(model) < LIMITS["max_references"]:
            model[session.keep("int", number)] = number
        elif operation == "drop":
            reply = session.ask(frames.CALL, {"drop": [name]})
            assert (reply.kind == frames.VALUE) == (model.pop(name, None) is not None)
        elif operation == "use":
            reply = session.call("int", {"$ref": name})
            assert reply.value == model[name] if name in model else reply.refused[0] == "reference_not_found"
    assert session.kept() == list(model)
