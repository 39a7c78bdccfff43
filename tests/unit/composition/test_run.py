"""Compositions that are cut come to what Python makes of them, wherever the cuts are."""

import asyncio
import contextlib
import functools
import itertools
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.auth.limits import Gate
from orchestrator.composition import exact
from orchestrator.composition.calling import Asked, Calling
from orchestrator.composition.crossing import Names
from orchestrator.composition.trail import Trail
from orchestrator.errors import RateLimited, SandboxLost
from orchestrator.sandboxes.content import Whole
from orchestrator.sandboxes.replies import (
    InForm,
    NotSerializable,
    Raised,
    RefusedCall,
    Reply,
    TimedOut,
    Typed,
    Value,
    Violation,
    WorkerDied,
)
from orchestrator.sandboxes.work import File
from orchestrator.sessions.manager import CallOutcome
from tests.unit.composition.conftest import ADA, World

pytestmark = pytest.mark.anyio

several = settings(max_examples=25)

# Stages from a list of integers to another, and what they do.
STAGES: list[tuple[Any, Any]] = [
    ("sorted", sorted),
    ([{"name": "sorted", "kwargs": {"reverse": True}}], functools.partial(sorted, reverse=True)),
    ("itertools.accumulate", lambda items: list(itertools.accumulate(items))),
]
OPERATIONS: list[tuple[dict[str, Any], Any]] = [
    ({"op": "map", "function": "abs"}, lambda items: [abs(item) for item in items]),
    (
        {"op": "map", "function": [{"moduleName": "operator"}, {"name": "mul", "args": [3]}]},
        lambda items: [3 * item for item in items],
    ),
    (
        {"op": "filter", "function": [{"moduleName": "operator"}, {"name": "lt", "args": [1]}]},
        lambda items: [item for item in items if item > 1],
    ),
    (
        {"op": "flatmap", "function": [{"moduleName": "itertools"}, {"name": "repeat", "kwargs": {"times": 2}}]},
        lambda items: [item for item in items for _ in range(2)],
    ),
]


def _made(operation: tuple[dict[str, Any], Any], parallel: int | None, wrapped: bool) -> tuple[Any, Any]:
    members, does = operation
    members = members if parallel is None else {**members, "parallel": parallel}
    return ({"listop": members} if wrapped else members), does


operations = st.builds(_made, st.sampled_from(OPERATIONS), st.none() | st.integers(1, 8), st.booleans())
stages = st.lists(st.sampled_from(STAGES) | operations, min_size=1, max_size=5)
integers = st.lists(st.integers(-(10**30), 10**30), max_size=12)


def expected(items: list[int], chosen: list[tuple[Any, Any]]) -> list[int]:
    for _, does in chosen:
        items = does(items)
    return items


def value(request: dict[str, Any]) -> Any:
    """What it comes to; of the sessions that were opened for it none is left."""
    world = World()
    result = asyncio.run(world.value(request))
    assert set(world.sessions.runners) == set("abc")
    return result


@several
@given(integers, stages)
def test_a_pipeline_comes_to_the_same_wherever_it_is_spread(items: list[int], chosen: list[tuple[Any, Any]]) -> None:
    spread = {"listop": {"op": "map", "function": "int", "parallel": 3}}
    assert value({"args": [items], "pipeline": [*(stage for stage, _ in chosen), spread]}) == expected(items, chosen)


@pytest.mark.parametrize(("items", "started"), [([4], False), ([4, 9], True)])
async def test_what_was_started_is_told_where_sandboxes_were_started(
    world: World, items: list[int], started: bool
) -> None:
    outcome = await world.compose({"listop": {"op": "map", "function": "math.isqrt", "parallel": 2, "list": items}})
    assert (outcome.started_s > 0, outcome.restarted) == (started, False)


@several
@given(integers, st.lists(st.tuples(st.sampled_from("abc"), stages), min_size=1, max_size=4))
def test_pipes_come_to_the_same_as_one_pipeline(items: list[int], pipes: list[tuple[str, Any]]) -> None:
    told: list[Any] = [{"session": name, "pipeline": [stage for stage, _ in chosen]} for name, chosen in pipes]
    told.insert(len(pipes) // 2, {})  # skipped
    assert value({"args": [items], "pipes": told}) == expected(
        items, [stage for _, chosen in pipes for stage in chosen]
    )


@several
@given(integers, st.integers(2, 8))
def test_items_are_made_by_the_constructor_where_they_are_worked_on(items: list[int], parallel: int) -> None:
    listop = {"op": "map", "function": "operator.neg", "list": [*map(str, items), ["int"]], "parallel": parallel}
    assert value({"listop": listop}) == [-item for item in items]


@several
@given(st.lists(st.lists(st.integers(), min_size=2, max_size=2), max_size=9), st.integers(2, 8))
def test_starmap_is_spread_as_map_is(pairs: list[list[int]], parallel: int) -> None:
    operation = {"op": "starmap", "function": "operator.add", "parallel": parallel}
    assert value({"args": [pairs], "pipeline": [operation]}) == [one + other for one, other in pairs]


TAGS = st.sampled_from(["$file", "$ref", "$array", "$object", "$bytes", "$image", "dtype", "shape", "type"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | TAGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | TAGS, inner, max_size=3),
    max_leaves=20,
)


@several
@given(st.lists(json_values, max_size=8), st.integers(2, 4))
def test_any_json_crosses_sessions_unchanged(values: list[Any], parallel: int) -> None:
    """What looks like a tag too, with values beside it that are in files."""
    with_bytes: Any = [{"name": "zip", "args": [[{"$bytes": "AAEC"}] * len(values)]}]
    pair = {"op": "map", "function": "list", "parallel": parallel}
    last = [{"op": "map", "function": "reversed"}, {"op": "map", "function": "next"}]
    request = {
        "args": [json.dumps(values)],
        "pipes": [
            {"session": "a", "pipeline": ["json.loads", with_bytes]},
            {"session": "b", "pipeline": [pair, *last, "json.dumps"]},
        ],
    }
    assert json.loads(value(request)) == values


async def test_no_file_is_lost_on_the_way_however_large(world: World) -> None:
    size = 3 * 1024 * 1024
    pipes = [
        {"session": "a", "pipeline": ["bytes"]},
        {"session": "b", "pipeline": [[{"moduleName": "itertools"}, {"name": "repeat", "kwargs": {"times": 2}}]]},
        {"session": "c", "pipeline": [{"op": "map", "function": "len", "parallel": 2}]},
    ]
    assert await world.value({"args": [size], "pipes": pipes}) == [size, size]
    assert [len(work.files) for _, work in world.sessions.asked] == [0, 1, 2, 1, 1, 0]
    assert not any(b"$bytes" in work.body for _, work in world.sessions.asked)  # no base64 on the way


async def test_files_of_the_request_go_where_they_are_named(world: World) -> None:
    files = (File("one", 3, b"abc"), File("f0", 2, b"de"))
    add: Any = [{"moduleName": "operator"}, {"name": "add", "args": [{"$file": "f0"}]}]
    pipes = [{"pipeline": ["bytes"]}, {"session": "b", "pipeline": [add]}, {"session": "c", "pipeline": ["bytes"]}]
    request = {"args": [{"$file": "one"}], "pipes": pipes}
    outcome = await world.compose(request, files=files, forms=("octets",))
    assert isinstance(outcome.reply, InForm)
    assert [piece async for piece in outcome.reply.content] == [b"deabc"]
    assert [sorted(file.name for file in work.files) for _, work in world.sessions.asked] == [
        ["one"],
        ["f0", "f1"],
        ["f2"],
    ]


async def test_the_last_part_alone_renders_the_value_as_the_client_wants_it(world: World) -> None:
    pipes = [{"session": "a", "pipeline": ["str"]}, {"session": "b", "pipeline": ["str"]}]
    outcome = await world.compose({"args": [7], "pipes": pipes}, forms=("csv", "text"))
    assert isinstance(outcome.reply, InForm)
    assert outcome.reply.form == "text"
    assert [work.forms for _, work in world.sessions.asked] == [("typed",), ("csv", "text")]


async def test_what_is_kept_is_kept_in_the_last_session(world: World) -> None:
    kept = await world.value(
        {"args": [7], "pipes": [{"pipeline": ["int"]}, {"session": "b", "pipeline": ["int"]}], "keep": True}
    )
    assert kept["type"] == "int"
    assert [b'"keep"' in work.body for _, work in world.sessions.asked] == [False, True]


async def test_references_are_dropped_in_the_first_session(world: World) -> None:
    listop = {"op": "map", "function": "abs", "list": [1, 2, 3], "parallel": 3}
    kept = await world.value({"listop": listop, "keep": True})
    by_reference = {
        "args": [{"$ref": kept["$ref"]}],
        "drop": [kept["$ref"]],
        "pipeline": [{"op": "map", "function": "abs", "parallel": 2}],
    }
    assert await world.value(by_reference) == [1, 2, 3]
    again = (await world.compose(by_reference)).reply
    assert isinstance(again, RefusedCall)
    assert (again.code, again.field) == ("reference_not_found", "args[0]")


async def test_the_first_failure_in_the_order_of_the_items_counts(world: World) -> None:
    listop = {"op": "map", "function": "math.sqrt", "list": [1, 4, 9, -1, 16, -2], "parallel": 3}
    reply = (await world.compose({"listop": listop})).reply
    assert isinstance(reply, Raised)
    told = json.loads(reply.body)
    assert (told["code"], told["item"], told.get("stage"), told.get("pipe")) == ("exception", 3, None, None)


async def test_a_failure_names_pipe_stage_and_item(world: World) -> None:
    spread = {"op": "map", "function": "math.sqrt", "parallel": 2}
    pipes = [{}, {"pipeline": ["sorted"]}, {"session": "b", "pipeline": ["sorted", "list", spread]}]
    reply = (await world.compose({"args": [[4, -1, 9, 1]], "pipes": pipes})).reply
    assert isinstance(reply, Raised)
    told = json.loads(reply.body)
    assert (told["pipe"], told["stage"], told["item"]) == (2, 2, 0)


@pytest.mark.parametrize(
    ("request_", "field", "place"),
    [
        (
            {"pipes": [{"pipeline": ["int"]}, {"pipeline": ["int", [{"name": "int", "argz": []}]]}]},
            "pipes[1].pipeline[1][0].argz",
            (1, 1, None),
        ),
        (
            {"pipeline": ["range", {"op": "map", "function": "math.sqr", "parallel": 2}]},
            "pipeline[1].function[1]",
            (None, 1, None),
        ),
        (
            {"pipeline": ["range", {"listop": {"op": "map", "function": "math.sqr", "parallel": 2}}, "len"]},
            "pipeline[1].listop.function[1]",
            (None, 1, None),
        ),
        (
            {"pipeline": ["range", {"op": "map", "function": "abs", "parallel": 2}, "len", "lenn"]},
            "pipeline[3][0]",
            (None, 3, None),
        ),
    ],
)
async def test_a_refusal_names_the_field_as_the_client_wrote_it(
    world: World, request_: dict[str, Any], field: str, place: tuple[int | None, ...]
) -> None:
    reply = (await world.compose({"args": [3], **request_})).reply
    assert isinstance(reply, RefusedCall)
    assert (reply.field, (reply.pipe, reply.stage, reply.item)) == (field, place)


@pytest.mark.parametrize(
    ("items", "field", "item"),
    [
        ([1, 2, 3, 4, {"$file": "none"}], "listop.list[4]", None),
        (["a", "b", "c", "d", ["in t"]], "listop.list[4][0]", None),
        ([{"a": 1}, {"a": 2}, {"$file": "none"}, ["dict"]], "listop.list[2]", None),
    ],
)
async def test_a_refusal_names_the_item_in_the_whole_list(
    world: World, items: list[Any], field: str, item: int | None
) -> None:
    reply = (await world.compose({"listop": {"op": "map", "function": "str", "list": items, "parallel": 3}})).reply
    assert isinstance(reply, RefusedCall)
    assert (reply.field, reply.item) == (field, item)


LISTOP = {"listop": {"op": "map", "function": "abs", "list": [1, 2, 3], "parallel": 3}}
PIPES: dict[str, Any] = {"args": [1], "pipes": [{"pipeline": ["int"]}, {"session": "b", "pipeline": ["int"]}]}


def ending(ends: str, told: Reply) -> Callable[[str], Awaitable[Reply | None]]:
    """What happens in one session, and nothing in others."""

    async def happens(sessionid: str) -> Reply | None:
        return told if sessionid == ends else None

    return happens


@pytest.mark.parametrize("told", [TimedOut(), WorkerDied(3, None)])
@pytest.mark.parametrize(
    ("request_", "ends", "place", "restarted"),
    [
        (PIPES, "b", {"pipe": 1, "stage": 0}, True),
        (LISTOP, "a", {}, True),
        (LISTOP, "extra-1", {}, False),
        ({"pipeline": [LISTOP, "len"]}, "extra-2", {"stage": 0}, False),
    ],
)
async def test_what_ends_an_interpreter_names_the_part_and_whether_it_was_a_session_s(
    world: World, told: Reply, request_: dict[str, Any], ends: str, place: dict[str, int], restarted: bool
) -> None:
    world.sessions.before_call = ending(ends, told)
    reply = (await world.compose(request_)).reply
    assert isinstance(reply, type(told))
    assert (reply.place, reply.restarted) == (place, restarted)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("request_", "ends", "told", "place"),
    [
        (PIPES, "b", {"stage": 0, "item": 3}, {"pipe": 1, "stage": 0, "item": 3}),
        ({"args": [1], "pipes": [{"pipeline": ["int", "int", "int"]}]}, "a", {"stage": 2}, {"pipe": 0, "stage": 2}),
        ({"args": [1], "pipes": [{"pipeline": ["int", "int", "int"]}]}, "a", {}, {"pipe": 0}),
        (LISTOP, "extra-2", {"item": 0}, {"item": 2}),
        ({"pipeline": [LISTOP, "len", "abs"]}, "a", {"item": 0}, {"stage": 0, "item": 0}),
        ({"args": [[1, 2, 3, 4]], "pipeline": ["list", {"op": "map", "function": "abs", "parallel": 2}]}, "extra-1",
         {"stage": 0, "item": 0}, {"stage": 1, "item": 2}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [TimedOut, functools.partial(WorkerDied, 3, None)])
async def test_the_place_that_a_runner_reports_is_that_of_the_request(
    world: World, kind: Any, request_: dict[str, Any], ends: str, told: dict[str, int], place: dict[str, int]
) -> None:
    world.sessions.before_call = ending(ends, kind(told))
    reply = (await world.compose(request_)).reply
    assert isinstance(reply, TimedOut | WorkerDied)
    assert reply.place == place


async def test_a_sandbox_that_is_lost_is_told_with_its_place(world: World) -> None:
    world.sessions.before_call = ending("b", Violation("garbage"))
    reply = (await world.compose(PIPES)).reply
    assert isinstance(reply, Violation)
    assert reply.place == {"pipe": 1, "stage": 0}
    world.sessions.before_call = ending("extra-2", Violation("garbage"))
    with pytest.raises(SandboxLost):
        await world.compose(LISTOP)
    assert set(world.sessions.runners) == set("abc")


async def test_where_there_is_no_room_for_the_sandboxes_nothing_runs_and_none_is_left(world: World) -> None:
    world.sessions.most, world.sessions.full = 2, RateLimited("full", after_s=1)
    spread = {"op": "map", "function": "abs", "parallel": 8}
    with pytest.raises(RateLimited) as refused:
        await world.compose({"args": [8], "pipeline": ["range", spread]})
    assert refused.value.place == {"stage": 1}
    assert [sessionid for sessionid, _ in world.sessions.asked] == ["a"]  # the stage before
    assert set(world.sessions.runners) == set("abc")


async def test_one_failure_that_reaches_several_requests_has_a_place_in_each(world: World) -> None:
    shared = SandboxLost("gone")

    async def lost(sessionid: str) -> None:
        if sessionid == "b":
            raise shared

    world.sessions.before_call = lost
    for pipes in ([{}, *PIPES["pipes"]], PIPES["pipes"]):
        with pytest.raises(SandboxLost) as raised:
            await world.compose({**PIPES, "pipes": pipes})
        assert raised.value.place == {"pipe": len(pipes) - 1, "stage": 0}
        assert (raised.value.detail, raised.value.args) == ("gone", ("gone",))
    assert shared.place == {}


async def test_extra_sessions_are_of_the_same_kind_and_counted_one_less(world: World) -> None:
    await world.value(LISTOP)
    session = world.sessions.cached("a", None).record  # type: ignore[arg-type]
    assert len(world.sessions.opened) == 2  # no more than there are items
    assert all(
        (options.resources, options.network, options.env) == (session.resources, session.network, session.env)
        for options in world.sessions.opened
    )


async def test_a_composition_that_is_cancelled_leaves_no_sandbox(world: World) -> None:
    under_way = asyncio.Event()

    async def hang(sessionid: str) -> None:
        if sessionid == "extra-2":
            under_way.set()
            await asyncio.Event().wait()

    world.sessions.before_call = hang
    running = asyncio.create_task(world.compose(LISTOP))
    await under_way.wait()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert set(world.sessions.runners) == set("abc")


async def test_each_part_gets_what_is_left_of_the_time(world: World) -> None:
    pipes = [{"pipeline": ["int"]}, {"session": "b", "pipeline": ["int"]}, {"session": "c", "pipeline": ["int"]}]
    await world.compose({"args": [1], "pipes": pipes}, timeout_s=5)
    first, second, third = world.sessions.timeouts_s
    assert first == 5
    assert first > second > third > 0


async def test_a_part_whose_time_has_come_before_its_turn_is_not_begun(world: World) -> None:
    async def late(sessionid: str) -> None:
        if sessionid == "b":
            await asyncio.Event().wait()  # it waits for its turn

    world.sessions.before_call = late
    pipes = [{"pipeline": ["int"]}, {"session": "b", "pipeline": ["int"]}]
    reply = (await world.compose({"args": [1], "pipes": pipes}, timeout_s=1)).reply
    assert reply == TimedOut({"pipe": 1, "stage": 0}, restarted=False, begun=False)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"value": 7}',
        b'{"value": "\\ud800"}',
        b'{"value": [{"$file": "f0"}, {"$file": "f9"}, "\\ud800"]}',
        b'{"value": [1], "stdout": 7}',
        b'{"value": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
async def test_what_a_hostile_runner_sends_ends_the_composition_and_nothing_else(world: World, body: bytes) -> None:
    spread = {"op": "map", "function": "abs", "parallel": 2}
    pipes = [{"pipeline": ["int"]}, {"session": "b", "pipeline": ["list", spread]}]
    world.sessions.before_call = ending("a", Typed(body, (("f0", 3),), Whole(b"abc")))
    with contextlib.suppress(SandboxLost):
        reply = (await world.compose({"args": [1], "pipes": pipes})).reply
        assert isinstance(reply, Raised | RefusedCall)
    assert set(world.sessions.runners) == set("abc")


class Endless(Whole):
    """Content that never ends."""

    closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("request_", "ends", "place"),
    [(PIPES, "a", {"pipe": 0, "stage": 0}), (LISTOP, "a", {}), (LISTOP, "extra-1", {})],
)
async def test_content_is_read_within_the_deadline(
    world: World, request_: dict[str, Any], ends: str, place: dict[str, int]
) -> None:
    content = Endless(b"abc")
    world.sessions.before_call = ending(ends, Typed(b'{"value": [{"$file": "f0"}]}', (("f0", 3),), content))
    reply = (await world.compose(request_, timeout_s=1)).reply
    assert reply == TimedOut(place, restarted=False)
    assert content.closed


async def test_content_is_closed_where_the_reply_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    content = Endless(b"abc")
    world.sessions.before_call = ending("b", Typed(b'{"value": {"$file": "f0"}}', (("f0", 3),), content))
    monkeypatch.setattr(Trail, "with_reply", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await world.compose(PIPES)
    assert content.closed


@pytest.mark.parametrize(
    ("request_", "place"),
    [
        ({"args": [30], "pipeline": ["range", {"op": "map", "function": "abs", "parallel": 2}]}, {"stage": 1}),
        (
            {"args": [[15, 15]], "pipeline": [{"op": "flatmap", "function": "range", "parallel": 2}, "len"]},
            {"stage": 0},
        ),
    ],
)
async def test_a_list_of_more_values_than_may_be_taken_apart_is_too_large(
    world: World, request_: dict[str, Any], place: dict[str, int]
) -> None:
    assert isinstance((await world.compose(request_, max_values=32)).reply, Value)
    reply = (await world.compose(request_, max_values=25)).reply
    assert isinstance(reply, NotSerializable)
    told = json.loads(reply.body)
    assert (told["error"], told["code"], {**told, **place} == told) == (True, "reply_too_large", True)
    assert set(world.sessions.runners) == set("abc")


async def test_values_that_are_passed_on_as_they_are_may_be_of_any_number(world: World) -> None:
    pipes = [{"pipeline": ["range", "list"]}, {"session": "b", "pipeline": ["sum"]}]
    assert isinstance((await world.compose({"args": [1000], "pipes": pipes}, max_values=10)).reply, Value)


@pytest.mark.parametrize(("size", "aside"), [(10, False), (100_000, True)])
async def test_large_values_are_put_together_in_a_thread(
    world: World, monkeypatch: pytest.MonkeyPatch, size: int, aside: bool
) -> None:
    """Where they are taken apart too."""
    here, there = threading.get_ident(), []

    def noting(work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            there.append((work.__name__, threading.get_ident() != here))
            return work(*args)

        return noted

    monkeypatch.setattr("orchestrator.composition.requests.exact.dumps", noting(exact.dumps))
    monkeypatch.setattr(Names, "renamed", noting(Names.renamed))
    with_bytes: Any = [{"name": "zip", "args": [[{"$bytes": "AAEC"}]]}]
    pipes = [{"pipeline": ["str.upper", "str.split", with_bytes, "list"]}, {"session": "b", "pipeline": ["len"]}]
    await world.compose({"args": ["x" * size], "pipes": pipes})
    assert ("renamed", aside) in there
    assert there[-1] == ("dumps", aside)


async def test_a_reply_does_not_wait_for_sandboxes_to_be_closed(world: World) -> None:
    world.sessions.closing, world.waits = asyncio.Event(), False
    assert await world.value(LISTOP) == [1, 2, 3]
    assert set(world.sessions.runners) == {*"abc", "extra-1", "extra-2"}
    world.sessions.closing.set()
    await world.background.finished(10)
    assert set(world.sessions.runners) == set("abc")


async def test_each_sandbox_that_is_opened_counts_as_a_setup(world: World) -> None:
    world.setups = Gate("setups", per_s=0.001, burst=3)
    assert await world.value(LISTOP) == [1, 2, 3]
    with pytest.raises(RateLimited, match="setups"):
        await world.compose(LISTOP)
    assert len(world.sessions.opened) == 2
    assert world.setups.running == 0


async def test_what_a_part_came_to_is_not_kept_for_the_receipts(world: World) -> None:
    calling = Calling(world.sessions, Asked(ADA, 1))  # type: ignore[arg-type]
    body = b'{"value": 1234567}'
    free = sys.getrefcount(body)
    calling.spend(CallOutcome(Value(body), False, 0.0, 0.0, 1.0))
    assert sys.getrefcount(body) == free
    assert calling.ended(TimedOut()).ran_s == 1.0
