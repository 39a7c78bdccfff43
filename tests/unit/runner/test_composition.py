"""Compositions inside one session: protocol section 4."""

import functools
import itertools
import math
import operator
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner import frames

from .in_process import Session, Told


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user's, `subject`, for a test to fill."""
    module = ModuleType("subject")
    monkeypatch.setitem(sys.modules, "subject", module)
    return module


# --- pipelines ---


def test_each_stage_gets_what_the_one_before_it_returned(session: Session) -> None:
    pipeline = [["math", "sqrt"], "math.floor", [{"name": "pow", "args": [2]}]]
    assert session.compose(args=[17], pipeline=pipeline).value == 2**4


def test_the_first_stage_gets_the_arguments_of_the_request(session: Session) -> None:
    assert session.compose(args=["ff"], kwargs={"base": 16}, pipeline=["int", "str"]).value == "255"
    assert session.compose(tuple=[{"3": "int"}, {"5": "int"}], pipeline=["operator.mul", "str"]).value == "15"
    assert session.compose(pipeline=["dict", "len"]).value == 0


def test_a_namepath_may_stand_in_brackets_of_its_own(session: Session) -> None:
    assert session.compose(args=[4], pipeline=[["math.sqrt"], [["builtins", "str"]], [["str", "title"]]]).value == "2.0"


def test_a_value_passes_as_the_object_that_it_is(session: Session, module: ModuleType) -> None:
    seen: list[Any] = []
    module.make = lambda: [object(), lambda: 1]  # type: ignore[attr-defined]
    module.see = lambda value: seen.append(value) or value  # type: ignore[attr-defined, func-returns-value]
    assert session.compose(pipeline=["subject.make", "subject.see", "subject.see", "len"]).value == 2
    assert seen[0] is seen[1]


def test_an_iterator_passes_undrained_and_the_last_one_is_drained(session: Session) -> None:
    stages = ["itertools.count", [{"name": "itertools"}, {"name": "islice"}]]
    assert session.compose(pipeline=["itertools.count", "next"]).value == 0
    assert session.compose(args=[[3, 1]], pipeline=["iter"]).value == [3, 1]
    reply = session.compose(pipeline=stages[:1])
    assert reply.body["code"] == "too_many_items"
    assert reply.body["stage"] == 0


def test_coroutines_are_awaited_between_stages(session: Session, module: ModuleType) -> None:
    async def double(x: int) -> int:
        return 2 * x

    module.double = double  # type: ignore[attr-defined]
    assert session.compose(args=[3], pipeline=["subject.double", "subject.double"]).value == 12


def test_what_was_piped_by_the_orchestrator_is_the_last_argument_of_the_first_stage(session: Session) -> None:
    assert session.compose(args=[10], piped=4, pipeline=["operator.sub", "str"]).value == "6"
    assert session.compose(piped=[1, 2], listop={"op": "map", "function": "str"}).value == ["1", "2"]
    piped = {"$array": "f0", "dtype": "<f8", "shape": [2]}
    body = {"piped": piped, "pipeline": [["numpy", "sum"]]}
    assert session.ask(frames.COMPOSE, body, files={"f0": np.array([1.0, 2.0]).tobytes()}).value == 3.0


def test_references_are_arguments_stages_and_results(session: Session) -> None:
    add = session.keep("functools.partial", {"$ref": session.keep("operator.attrgetter", "add")})
    values = session.keep("list", [1, 2])
    reply = session.compose(args=[{"$ref": values}], pipeline=["sum", [{"name": "operator"}, {"name": "neg"}]])
    assert reply.value == -3
    kept = session.compose(args=[{"$ref": values}], pipeline=["tuple"], keep=True, drop=[values]).value["$ref"]
    assert session.call("type", {"$ref": kept}).body["repr"] == "<class 'tuple'>"
    assert values not in session.kept()
    assert add in session.kept()


@pytest.mark.parametrize(
    ("members", "field", "stage"),
    [
        ({}, "pipeline", None),
        ({"pipeline": ["len"], "listop": {}}, "listop", None),
        ({"pipeline": []}, "pipeline", None),
        ({"pipeline": "len"}, "pipeline", None),
        ({"pipeline": ["len", 1]}, "pipeline[1]", 1),
        ({"pipeline": ["len", []]}, "pipeline[1]", 1),
        ({"pipeline": ["len", "str", [{"name": "pow", "args": 2}]]}, "pipeline[2][0].args", 2),
        ({"pipeline": ["len", "str", [{"name": "pow", "tuple": [{}]}]]}, "pipeline[2][0].tuple[0]", 2),
        ({"pipeline": ["len", [["pow", 1]]]}, "pipeline[1][0][1]", 1),
        ({"pipeline": ["len", {}]}, "pipeline[1].op", 1),
        ({"pipeline": ["len", {"listop": {"op": "map"}}]}, "pipeline[1].listop.function", 1),
        ({"pipeline": ["len", {"listop": {}, "op": "map"}]}, "pipeline[1].op", 1),
        ({"pipeline": ["len", {"op": "map", "function": "len", "list": [1]}]}, "pipeline[1].list", 1),
        ({"pipeline": [{"op": "map", "function": "len"}]}, "pipeline[0].list", 0),
        ({"pipeline": [{"op": "map", "function": "len", "list": []}], "args": [1]}, "pipeline[0].list", 0),
        ({"pipeline": [{"op": "map", "function": "len"}], "args": [1, 2]}, "pipeline[0].list", 0),
        ({"pipeline": [{"op": "map", "function": "len"}], "args": [1], "kwargs": {"a": 1}}, "kwargs", 0),
        ({"pipeline": [{"op": "map", "function": "len"}], "args": {"a": 1}}, "args", 0),
        ({"pipeline": ["len"], "arg": [1]}, "arg", None),
        ({"pipeline": ["len"], "args": [1], "tuple": []}, "tuple", None),
        ({"pipeline": ["len"], "keep": 1}, "keep", None),
        ({"listop": []}, "listop", None),
        ({"listop": {"op": "mapp", "function": "len", "list": []}}, "listop.op", None),
        ({"listop": {"op": [], "function": "len", "list": []}}, "listop.op", None),
        ({"listop": {"op": "map", "function": "len"}}, "listop.list", None),
        ({"listop": {"op": "map", "function": 1, "list": []}}, "listop.function", None),
        ({"listop": {"op": "map", "function": "len", "list": "abc"}}, "listop.list", None),
        ({"listop": {"op": "map", "function": "len", "list": [], "lst": 1}}, "listop.lst", None),
        ({"listop": {"op": "map", "function": "len", "list": [], "initial": 1}}, "listop.initial", None),
        ({"listop": {"op": "map", "function": "len", "list": [], "parallel": 0}}, "listop.parallel", None),
        ({"listop": {"op": "map", "function": "len", "list": [], "parallel": True}}, "listop.parallel", None),
        ({"listop": {"op": "sort", "list": [], "parallel": 2}}, "listop.parallel", None),
        ({"listop": {"op": "map", "function": "len", "list": [1, "2", ["int"]]}}, "listop.list[1]", None),
        ({"listop": {"op": "map", "function": "len", "list": [1, True, ["int"]]}}, "listop.list[1]", None),
        ({"listop": {"op": "map", "function": "len", "list": [[1], 2, [3], ["x"]]}}, "listop.list[1]", None),
        ({"listop": {"op": "map", "function": "len", "list": [[1], [2]]}}, "listop.list[1][0]", None),
        ({"listop": {"op": "map", "function": "len", "list": []}, "args": [1]}, "listop.list", None),
    ],
)
def test_what_is_no_composition_is_refused_where_it_is_wrong(
    session: Session, members: dict[str, Any], field: str, stage: int | None
) -> None:
    reply = session.compose(**members)
    assert reply.refused == ("invalid_request", field)
    assert reply.body.get("stage") == stage


def test_what_is_wrong_with_the_whole_names_no_stage() -> None:
    reply = Session({"max_references": 0}).compose(args=[4], pipeline=["math.sqrt", "str"], keep=True)
    assert (reply.refused[0], "stage" in reply.body) == ("too_many_references", False)


def test_a_stage_that_names_what_is_not_there_is_refused(session: Session) -> None:
    reply = session.compose(args=[4], pipeline=["math.sqrt", "math.sqrtt"])
    assert reply.refused == ("attribute_not_found", "pipeline[1][1]")
    assert reply.body["stage"] == 1
    reply = session.compose(args=[4], pipeline=["math.sqrt", "math.pi"])
    assert reply.refused == ("not_callable", "pipeline[1][1]")
    reply = session.compose(args=[4], pipeline=["math.pi", "str"])
    assert reply.refused == ("not_callable", "args")


def test_what_a_stage_raises_names_the_stage(session: Session) -> None:
    reply = session.compose(args=[0], pipeline=["float", "math.cos", [{"name": "operator"}, "neg"], "math.log"])
    assert reply.raised[0] == "ValueError"
    assert (reply.body["stage"], "item" in reply.body) == (3, False)


def test_a_last_value_that_has_no_form_names_the_stage(session: Session) -> None:
    reply = session.compose(pipeline=["object", "iter"])
    assert reply.raised[0] == "TypeError"
    reply = session.compose(pipeline=["dict", "id", "type"])
    assert (reply.kind, reply.body["stage"]) == (frames.UNSERIALISABLE, 2)


@pytest.mark.parametrize(
    "pipeline", [["float", "math.log"], ["float", "math.nothing"], ["float", "type"], ["float", 1]]
)
def test_a_composition_that_fails_keeps_nothing_and_drops_what_it_may(session: Session, pipeline: list[Any]) -> None:
    name = session.keep("int", 1)
    reply = session.compose(args=[0], pipeline=pipeline, keep=pipeline[1] != "type")
    assert reply.kind != frames.VALUE
    assert session.kept() == [name]


# --- list operations ---


def listop(session: Session, op: str, function: Any, items: Any, **more: Any) -> Any:
    return session.compose(listop={"op": op, "function": function, "list": items, **more}).value


def test_the_operations_are_those_of_python(session: Session) -> None:
    assert listop(session, "map", "math.sqrt", [1, 4, 9]) == [1, 2, 3]
    assert listop(session, "filter", "str.isupper", ["a", "B"]) == ["B"]
    assert listop(session, "reduce", "operator.sub", [10, 2, 3]) == 5
    assert listop(session, "reduce", "operator.sub", [2, 3], initial=20) == 15
    assert listop(session, "reduce", "operator.sub", [], initial=20) == 20
    assert listop(session, "starmap", "pow", [[2, 5], [3, 2], ["tuple"]]) == [32, 9]
    assert listop(session, "flatmap", "str.split", ["a b", "c"]) == ["a", "b", "c"]
    assert listop(session, "sort", "len", ["ccc", "a", "bb"]) == ["a", "bb", "ccc"]
    assert listop(session, "any", "str.isupper", ["a", "B"]) is True
    assert listop(session, "all", "str.isupper", ["a", "B"]) is False


def test_a_starmap_over_what_is_no_list_of_arguments_says_so_as_python_does(session: Session) -> None:
    reply = session.compose(listop={"op": "starmap", "function": "pow", "list": [[2, 5], 3]})
    assert reply.raised == ("TypeError", "Value after * must be an iterable, not int")


def test_items_count_themselves_where_there_is_no_function(session: Session) -> None:
    assert session.compose(listop={"op": "sort", "list": [3, 1, 2]}).value == [1, 2, 3]
    assert session.compose(listop={"op": "any", "list": [0, ""]}).value is False
    assert session.compose(listop={"op": "all", "list": []}).value is True


def test_an_array_in_last_position_is_the_constructor(session: Session) -> None:
    assert listop(session, "map", "math.sqrt", ["4", "9", ["float"]]) == [2, 3]
    assert listop(session, "starmap", "operator.add", [[1, 2], [3, 4], ["list"]]) == [3, 7]
    assert listop(session, "map", "str", [1, 2.5, ["decimal", "Decimal"]]) == ["1", "2.5"]
    assert listop(session, "map", "str", [["float"]]) == []
    assert listop(session, "map", "numpy.sum", [[1, 2], [3, 4], ["numpy", "array"]]) == [3, 7]


@pytest.mark.parametrize("items", [[[1, 2], [3, 4]], [["a"], ["no_such_name"]], [1, []]])
def test_who_meant_an_array_to_be_an_item_is_told_that_it_is_the_constructor(
    session: Session, items: list[Any]
) -> None:
    reply = session.compose(listop={"op": "map", "function": "len", "list": items})
    assert reply.kind == frames.REFUSED
    assert reply.body["field"].startswith("listop.list[1]")
    assert reply.body["detail"].startswith("an array in last position of 'list' is the constructor of the items: ")


def test_a_constructor_has_its_own_arguments_first(session: Session) -> None:
    assert listop(session, "map", "str", [1, 2, ["operator", {"name": "add", "args": [10]}]]) == ["11", "12"]


def test_the_function_is_resolved_once(session: Session, module: ModuleType) -> None:
    made: list[int] = []

    def make() -> Callable[[int], int]:
        made.append(1)
        return abs

    module.make = make  # type: ignore[attr-defined]
    assert listop(session, "map", ["subject", {"name": "make", "args": []}, "__call__"], [-1, -2]) == [1, 2]
    assert made == [1]


def test_a_list_operation_may_be_a_stage_in_either_spelling(session: Session) -> None:
    square = {"op": "map", "function": ["operator", {"name": "mul", "args": [2]}]}
    assert session.compose(args=[3], pipeline=["range", square, {"listop": square}, "sum"]).value == 12
    assert session.compose(args=[[1, 2]], pipeline=[square]).value == [2, 4]
    assert session.compose(pipeline=[{**square, "list": [1, 2]}, "sum"]).value == 6


@pytest.mark.parametrize("source", ["iter", "tuple", "set", "numpy.array", "dict.fromkeys", "list"])
def test_the_piped_list_may_be_any_iterable(session: Session, source: str) -> None:
    assert session.compose(args=[[3, 1, 2]], pipeline=[source, {"op": "sort"}]).value == [1, 2, 3]


def test_a_piped_list_has_no_constructor(session: Session) -> None:
    assert session.compose(args=[[[1], [2, 3]]], pipeline=["list", {"op": "map", "function": "len"}]).value == [1, 2]
    name = session.keep("list", [[1], [2, 3]])
    assert listop(session, "map", "len", {"$ref": name}) == [1, 2]


def test_asynchronous_iterators_are_lists_too(session: Session, module: ModuleType) -> None:
    async def numbers() -> Any:
        for i in range(3):
            yield i

    module.numbers = numbers  # type: ignore[attr-defined]
    assert session.compose(pipeline=["subject.numbers", {"op": "map", "function": "str"}]).value == ["0", "1", "2"]


def test_an_endless_list_ends_at_the_bound_unless_it_is_decided_before(session: Session) -> None:
    stages = ["itertools.count", {"op": "map", "function": "str"}]
    reply = session.compose(pipeline=stages)
    assert (reply.body["code"], reply.body["stage"], "item" in reply.body) == ("too_many_items", 1, False)
    assert session.compose(pipeline=["itertools.count", {"op": "any", "function": "bool"}]).value is True


@pytest.mark.parametrize("op", ["map", "filter", "reduce", "starmap", "flatmap", "sort", "any", "all"])
def test_what_a_function_raises_names_the_item(session: Session, op: str, module: ModuleType) -> None:
    def work(*args: Any) -> Any:
        if args[-1] == "c":
            raise ZeroDivisionError
        return ["x"] if op != "any" else []

    module.work = work  # type: ignore[attr-defined]
    items = ["a", "b", "c", "d"]
    alone = session.compose(listop={"op": op, "function": "subject.work", "list": items})
    assert alone.raised[0] == "ZeroDivisionError"
    assert (alone.body["item"], "stage" in alone.body) == (2, False)
    staged = session.compose(args=[items], pipeline=["list", {"op": op, "function": "subject.work"}])
    assert (staged.body["item"], staged.body["stage"]) == (2, 1)


def test_what_a_constructor_raises_names_the_item(session: Session) -> None:
    reply = session.compose(listop={"op": "map", "function": "str", "list": ["1", "x", ["int"]]})
    assert (reply.raised[0], reply.body["item"]) == ("ValueError", 1)


def test_what_the_list_itself_raises_names_no_item(session: Session, module: ModuleType) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    module.numbers = numbers  # type: ignore[attr-defined]
    reply = session.compose(pipeline=["subject.numbers", {"op": "map", "function": "str"}])
    assert (reply.raised[0], reply.body["stage"], "item" in reply.body) == ("ZeroDivisionError", 1, False)


def test_a_function_that_is_none_is_refused(session: Session) -> None:
    reply = session.compose(listop={"op": "map", "function": "math.nothing", "list": [1]})
    assert reply.refused == ("attribute_not_found", "listop.function[1]")
    reply = session.compose(args=[[1]], pipeline=["list", {"op": "map", "function": ["math", "pi"]}])
    assert reply.refused == ("not_callable", "pipeline[1].function[1]")


def test_a_reduction_of_nothing_has_raised(session: Session) -> None:
    assert session.compose(listop={"op": "reduce", "function": "max", "list": []}).raised[0] == "TypeError"


def test_the_last_iterator_is_streamed(session: Session) -> None:
    told = Told()
    body = {"args": [3], "pipeline": ["range", "iter"]}
    reply = session.ask(frames.COMPOSE, body, events=told)
    assert told.items == [(0, 0), (1, 1), (2, 2)]
    assert (reply.value, reply.body["items"]) == (None, 3)


# --- what holds for all ---

Stage = tuple[Any, Callable[[Any], Any]]
numbers = st.integers(-50, 50)


def own(name: str, function: Callable[..., Any]) -> st.SearchStrategy[Stage]:
    module, _, last = name.rpartition(".")
    return numbers.map(lambda n: ([module, {"name": last, "args": [n]}], lambda value: function(n, value)))


# From a number to a number.
plain: st.SearchStrategy[Stage] = st.sampled_from(
    [
        ("operator.neg", operator.neg),
        (["builtins", "abs"], abs),
        ([{"moduleName": "math"}, {"name": "ceil"}], math.ceil),
        ([{"name": "numpy"}, "square"], np.square),
        ("hash", hash),
    ]
) | st.one_of(own("operator.add", operator.add), own("operator.mul", operator.mul), own("numpy.subtract", np.subtract))


@st.composite
def operations(draw: st.DrawFn) -> Stage:
    """From a list of numbers to a list of numbers."""
    function, python = draw(plain)
    op = draw(st.sampled_from(["map", "filter", "sort"]))
    made: dict[str, Callable[[Any], Any]] = {
        "map": lambda items: [python(item) for item in items],
        "filter": lambda items: [item for item in items if python(item)],
        "sort": lambda items: sorted(items, key=python),
    }
    stage = {"op": op, "function": function, **({} if op == "sort" else {"parallel": 1})}
    return draw(st.sampled_from([stage, {"listop": stage}])), made[op]


ends: st.SearchStrategy[Stage] = st.sampled_from(
    [
        ("list", list),
        (["builtins", "sum"], sum),
        ("len", len),
        (
            {"op": "reduce", "function": "operator.add", "initial": 7},
            lambda items: functools.reduce(operator.add, items, 7),
        ),
        ({"op": "flatmap", "function": "str"}, lambda items: [c for item in items for c in str(item)]),
        ({"op": "any"}, any),
        ({"op": "all"}, all),
    ]
)
SESSION = Session({"max_items": 100_000})


def outcome(expression: Callable[[], Any]) -> tuple[str, Any]:
    try:
        value = expression()
    except Exception as exc:
        return "raised", type(exc).__name__
    return "value", value.item() if isinstance(value, np.generic) else value


def answer(**members: Any) -> tuple[str, Any]:
    reply = SESSION.compose(**members)
    if reply.kind == frames.RAISED:
        return "raised", reply.raised[0].rpartition(".")[2]
    return "value", reply.value


def run(stages: list[Stage], value: Any) -> Any:
    for _, python in stages:
        value = python(value)
    return value


@given(stages=st.lists(plain, min_size=1, max_size=6), start=numbers)
def test_a_pipeline_is_what_python_makes_of_it(stages: list[Stage], start: int) -> None:
    assert answer(args=[start], pipeline=[stage for stage, _ in stages]) == outcome(lambda: run(stages, start))


@given(stages=st.lists(operations(), max_size=4), end=ends, start=st.lists(numbers, max_size=8))
def test_a_pipeline_of_list_operations_is_what_python_makes_of_it(
    stages: list[Stage], end: Stage, start: list[int]
) -> None:
    members = {"args": [start], "pipeline": ["tuple", *(stage for stage, _ in stages), end[0]]}
    kind, value = outcome(lambda: run([*stages, end], tuple(start)))
    value = (
        [item.item() if isinstance(item, np.generic) else item for item in value] if isinstance(value, list) else value
    )
    assert answer(**members) == (kind, value)


@given(stage=operations(), start=st.lists(numbers, max_size=8), constructed=st.booleans())
def test_a_lone_list_operation_is_what_python_makes_of_it(stage: Stage, start: list[int], constructed: bool) -> None:
    operation, python = stage[0].get("listop", stage[0]), stage[1]
    items = [*map(str, start), ["int"]] if constructed else start
    kind, value = outcome(lambda: [item.item() if isinstance(item, np.generic) else item for item in python(start)])
    assert answer(listop={**operation, "list": items}) == (kind, value)


@given(items=st.lists(st.tuples(numbers, numbers), max_size=6))
def test_a_starmap_is_what_python_makes_of_it(items: list[tuple[int, int]]) -> None:
    members = {"listop": {"op": "starmap", "function": "operator.mul", "list": [*items, ["tuple"]]}}
    assert answer(**members) == ("value", list(itertools.starmap(operator.mul, items)))
