"""Files that a composition names and that were not sent: told before anything runs, as the runner would tell it in its turn."""

import tracemalloc
from typing import Any

import pytest

from orchestrator.composition import exact
from orchestrator.composition.files import check_all_sent
from orchestrator.composition.plan import plan
from orchestrator.errors import InvalidRequest
from orchestrator.sandboxes.replies import RefusedCall
from orchestrator.sandboxes.work import File
from tests.unit.composition.conftest import World

pytestmark = pytest.mark.anyio

FILE = {"$file": "absent"}
ARRAY = {"$array": "absent", "dtype": "<f8", "shape": [2]}
SENT = File("sent", 1, b"x")


def check(request: dict[str, Any]) -> None:
    cut = plan(exact.loads(exact.dumps(request)), lambda: "own", max_parallel=8, max_stages=10)
    assert cut is not None
    check_all_sent(cut.parts, (SENT,))


def dumps(**members: Any) -> Any:
    return [{"moduleName": "json"}, {"name": "dumps", **members}]


@pytest.mark.parametrize(
    "stages",
    [
        [dumps(args=[FILE])],
        [[dumps(args=[1, FILE])]],
        ["str", "str", dumps(kwargs={"a": {"b": [0, FILE]}})],
        [dumps(args=[{"$object": {"$object": FILE}}])],
        [dumps(args=[{"$file": "sent"}, FILE, {"$file": "other"}])],
        [dumps(args=[ARRAY])],
        [dumps(tuple=[{"bytes": "bytes"}, {"value": [FILE], "type": "str"}])],
        [{"listop": {"op": "map", "function": dumps(args=[FILE])}}],
        [{"op": "reduce", "function": "max", "initial": [FILE]}],
        [{"op": "map", "function": dumps(kwargs={"a": FILE}), "parallel": 2}],
    ],
)
async def test_it_is_told_as_the_runner_of_that_part_would(world: World, stages: list[Any]) -> None:
    request = {"args": [[1, 2]], "pipes": [{}, {"pipeline": ["list"]}, {"session": "b", "pipeline": stages}]}
    with pytest.raises(InvalidRequest) as refused:
        check(request)
    reply = (await world.compose(request, files=(SENT,))).reply
    assert isinstance(reply, RefusedCall)
    places = {"pipe": reply.pipe, "stage": reply.stage, "item": reply.item}
    told = {name: number for name, number in places.items() if number is not None}
    assert (refused.value.code, refused.value.detail) == (reply.code, reply.detail)
    assert (refused.value.field, refused.value.place) == (reply.field, told)


@pytest.mark.parametrize(
    "argument",
    [
        {"$object": FILE},
        {"$file": 7},
        {"$file": "absent", "more": 1},
        {"$file": "sent"},
        {"$image": "YWJj", "type": "image/png"},
        {"$bytes": "absent"},
    ],
)
def test_what_names_no_file_is_let_be(argument: Any) -> None:
    check({"pipes": [{"pipeline": ["list"]}, {"pipeline": [dumps(args=[argument])]}]})


def test_a_typed_argument_in_its_compact_form_names_no_file() -> None:
    check({"pipes": [{"pipeline": ["list"]}, {"pipeline": [dumps(tuple=[{"$file": "str"}])]}]})


def test_the_first_part_is_left_to_its_runner() -> None:
    check({"args": [FILE], "pipes": [{"pipeline": [dumps(args=[FILE])]}, {"pipeline": ["len"]}]})


def test_looking_for_one_takes_no_more_memory_where_names_are_long() -> None:
    argument = {"k" * 200_000: [0] * 1000}
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="absent"):
            check({"pipes": [{"pipeline": ["list"]}, {"pipeline": [dumps(args=[argument, FILE])]}]})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
