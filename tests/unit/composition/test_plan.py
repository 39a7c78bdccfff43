"""Where a composition is cut, and what is refused before anything runs."""

from typing import Any

import pytest

from orchestrator.composition import exact
from orchestrator.composition.parts import Plan, Spread, Straight
from orchestrator.composition.plan import LIST, plan
from orchestrator.errors import InvalidRequest

MAP = {"op": "map", "function": "abs", "parallel": 2}


def session() -> str:
    return "own"


def cut(request: dict[str, Any]) -> Plan | None:
    return plan(exact.loads(exact.dumps(request)), session, max_parallel=8, max_stages=10)


def shown(request: dict[str, Any]) -> list[tuple[str, Any]]:
    """The parts: session, and stages or the number of sandboxes."""
    made = cut(request)
    assert made is not None
    return [(part.session, part.parallel if isinstance(part, Spread) else list(part.stages)) for part in made.parts]


@pytest.mark.parametrize(
    "request_",
    [
        {"pipeline": ["abs", "abs"]},
        {"pipeline": ["sorted", {"op": "map", "function": "abs"}, {"listop": {"op": "any"}}]},
        {"pipeline": ["sorted", {"op": "map", "function": "abs", "parallel": 1}]},
        {"listop": {"op": "sort", "list": [3, 1]}},
        {"listop": {"op": "map", "function": "abs", "list": [3, 1], "parallel": 1}},
        {"args": ["parallel"], "pipeline": [{"op": "map", "function": "abs"}]},
        {"pipeline": "not a pipeline"},  # the runner's to refuse
        {"listop": 7},
        {"pipeline": ["x"] * 11},  # of one sandbox: the runner hands nothing on
    ],
)
def test_what_stays_in_one_sandbox_is_not_cut(request_: dict[str, Any]) -> None:
    assert cut(request_) is None


@pytest.mark.parametrize(
    ("request_", "parts"),
    [
        (
            {"args": [1], "pipes": [{"session": "a", "pipeline": ["x"]}, {}, {"pipeline": ["y", "z"]}]},
            [("a", ["x"]), ("own", ["y", "z"])],
        ),
        ({"args": [1], "pipeline": ["x", MAP, "y"]}, [("own", ["x", LIST]), ("own", 2), ("own", ["y"])]),
        ({"args": [1], "pipeline": [MAP]}, [("own", [LIST]), ("own", 2), ("own", [LIST])]),
        (
            {"args": [1], "pipeline": ["x", {"listop": MAP}, MAP]},
            [("own", ["x", LIST]), ("own", 2), ("own", 2), ("own", [LIST])],
        ),
        ({"listop": {**MAP, "list": [1, 2]}}, [("own", 2), ("own", [LIST])]),
        ({"pipeline": [{**MAP, "list": [1, 2]}, "y"]}, [("own", 2), ("own", ["y"])]),
        ({"listop": {**MAP, "list": {"$ref": "r1"}}}, [("own", [LIST]), ("own", 2), ("own", [LIST])]),
        (
            {"args": [1], "pipes": [{"session": "a", "pipeline": [MAP]}, {"session": "b", "pipeline": [MAP]}]},
            [("a", [LIST]), ("a", 2), ("b", 2), ("b", [LIST])],
        ),
    ],
)
def test_it_is_cut_where_the_session_changes_and_around_what_is_spread(
    request_: dict[str, Any], parts: list[tuple[str, Any]]
) -> None:
    assert shown(request_) == parts


def test_arguments_go_to_the_first_part_and_keep_to_the_last() -> None:
    made = cut({"args": [1], "kwargs": {"b": 2}, "drop": ["r1"], "keep": True, "pipes": [{"pipeline": ["x"]}]})
    assert made is not None
    assert set(made.first) == {"args", "kwargs", "drop"}
    assert made.keep


def test_numbers_of_a_list_stay_the_texts_they_are() -> None:
    text = b'{"listop": {"op": "map", "function": "abs", "parallel": 2, "list": [1e2, NaN, %s]}}' % (b"9" * 5000)
    made = plan(exact.loads(text), session, max_parallel=8, max_stages=10)
    assert made is not None
    assert isinstance(made.before[0], Spread)
    assert exact.dumps(made.before[0].items) == b"[1e2,NaN,%s]" % (b"9" * 5000)


def test_places_are_those_of_the_request() -> None:
    made = cut({"pipes": [{}, {"pipeline": ["x"]}, {"pipeline": ["x", "y", MAP, "z"]}], "args": [1]})
    assert made is not None
    parts = made.parts
    assert [part.place.members() for part in parts] == [
        {"pipe": 1, "stage": 0},
        {"pipe": 2, "stage": 0},
        {"pipe": 2, "stage": 2},
        {"pipe": 2, "stage": 3},
    ]
    assert isinstance(parts[1], Straight)
    assert parts[1].members() == {"pipe": 2}  # which of its stages, nobody knows


@pytest.mark.parametrize(
    ("request_", "field", "place"),
    [
        ({}, "pipeline", {}),
        ({"pipeline": ["x"], "pipes": [{"pipeline": ["x"]}]}, "pipes", {}),
        ({"pipeline": ["x"], "listop": {"op": "any"}}, "listop", {}),
        ({"pipes": "x"}, "pipes", {}),
        ({"pipes": []}, "pipes", {}),
        ({"pipes": [{}, {}]}, "pipes", {}),
        ({"pipes": [{}, ["x"]]}, "pipes[1]", {"pipe": 1}),
        ({"pipes": [{"pipeline": ["x"], "args": [1]}]}, "pipes[0].args", {"pipe": 0}),
        ({"pipes": [{"session": 7, "pipeline": ["x"]}]}, "pipes[0].session", {"pipe": 0}),
        ({"pipes": [{"session": "a"}]}, "pipes[0].pipeline", {"pipe": 0}),
        ({"pipes": [{}, {"session": "a", "pipeline": []}]}, "pipes[1].pipeline", {"pipe": 1}),
        ({"pipes": [{"pipeline": ["x"]}], "keep": 1}, "keep", {}),
        ({"args": [1], "pipeline": ["x", {**MAP, "parallel": 9}]}, "pipeline[1].parallel", {"stage": 1}),
        ({"args": [1], "pipeline": ["x", {"listop": {**MAP, "parallel": 0}}]}, "pipeline[1].listop.parallel", {"stage": 1}),
        ({"args": [1], "pipeline": [{**MAP, "parallel": "2"}]}, "pipeline[0].parallel", {"stage": 0}),
        ({"args": [1], "pipeline": [{**MAP, "parallel": 2.5}]}, "pipeline[0].parallel", {"stage": 0}),
        ({"args": [1], "pipeline": [{**MAP, "parallel": True}]}, "pipeline[0].parallel", {"stage": 0}),
        ({"pipes": [{}, {"pipeline": [{**MAP, "op": "any"}]}]}, "pipes[1].pipeline[0].parallel", {"pipe": 1, "stage": 0}),
        ({"listop": {**MAP, "op": "sort", "list": [1]}}, "listop.parallel", {}),
        ({"listop": {"op": "map", "parallel": 2, "list": [1]}}, "listop.function", {}),
        ({"listop": {**MAP, "list": [1], "initial": 1}}, "listop.initial", {}),
        ({"args": [1], "pipeline": ["x", {"listop": MAP, "lst": [1]}]}, "pipeline[1].lst", {"stage": 1}),
        ({"pipes": [{"pipeline": [{"listop": MAP, "op": "map"}]}]}, "pipes[0].pipeline[0].op", {"pipe": 0, "stage": 0}),
        ({"listop": MAP}, "listop.list", {}),
        ({"listop": {**MAP, "list": "abc"}, "args": [[1]]}, "listop.list", {}),
        ({"listop": {**MAP, "list": "abc"}}, "listop.list", {}),
        ({"listop": {**MAP, "list": {"a": 1}}}, "listop.list", {}),
        ({"listop": {**MAP, "list": {"$ref": "none"}}}, "listop.list", {}),
        ({"listop": {**MAP, "list": None}, "args": [[1]]}, "listop.list", {}),
        ({"listop": {**MAP, "list": [1]}, "args": [[2]]}, "listop.list", {}),
        ({"listop": {**MAP, "list": [1]}, "kwargs": {"a": 1}}, "kwargs", {}),
        ({"listop": {**MAP, "list": [1]}, "args": {"a": 1}}, "args", {}),
        ({"listop": MAP, "args": {}}, "listop.list", {}),
        ({"listop": {**MAP, "list": [1]}, "args": ""}, "listop.list", {}),
        ({"listop": {**MAP, "list": [1]}, "tuple": {}}, "listop.list", {}),
        ({"args": [1], "pipeline": ["x", {**MAP, "list": [1]}]}, "pipeline[1].list", {"stage": 1}),
        ({"listop": {**MAP, "list": [1, 2, "3", ["int"]]}}, "listop.list[2]", {}),
        ({"listop": {**MAP, "list": [1, True, ["int"]]}}, "listop.list[1]", {}),
        ({"listop": {**MAP, "function": [{"ref": "r1"}], "list": [1]}}, "listop.function", {}),
        ({"pipeline": [{**MAP, "function": [{"name": "f", "args": [{"$ref": "r1"}]}]}]}, "pipeline[0].function", {"stage": 0}),
        ({"listop": {**MAP, "list": [1, {"$ref": "r1"}]}}, "listop.list", {}),
        ({"listop": {**MAP, "list": [{"$ref": "r1", "type": "list", "repr": "[]"}]}}, "listop.list", {}),
        ({"args": [[1]], "pipeline": ["x"] * 10 + [MAP]}, "pipeline", {}),
        ({"pipes": [{}] * 9 + [{"pipeline": ["x"]}]}, "pipes", {}),
        ({"pipes": [{"pipeline": ["x"] * 3}] * 3}, "pipes", {}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name(request_: dict[str, Any], field: str, place: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        cut(request_)
    assert (refused.value.field, refused.value.place) == (field, place)


@pytest.mark.parametrize("none", [{"args": {}}, {"args": []}, {"tuple": []}, {"kwargs": {}}])
def test_an_operation_with_a_list_of_its_own_takes_none_of_the_arguments_that_are_not_there(
    none: dict[str, Any],
) -> None:
    assert shown({"listop": {**MAP, "list": [1]}, **none}) == [("own", 2), ("own", [LIST])]


def test_what_only_looks_like_a_reference_may_cross() -> None:
    listop = {**MAP, "list": [{"$ref": "#/definitions/x"}, {"$object": {"$ref": "r1"}}, {"$ref": "r1", "type": "x"}]}
    assert shown({"listop": listop}) == [("own", 2), ("own", [LIST])]
