"""Values between sandboxes: their numbers, their files, and what only looks like one."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.api.spool import Spool
from orchestrator.composition import exact
from orchestrator.composition.crossing import Names, Told, shared, taken
from orchestrator.composition.locating import OfStages, located
from orchestrator.composition.parts import Place, Straight
from orchestrator.composition.tags import FILES, REFERENCE, tagged
from orchestrator.composition.trail import Trail
from orchestrator.errors import SandboxLost, SpoolFull
from orchestrator.sandboxes.content import Whole
from orchestrator.sandboxes.replies import NotSerializable, Raised, RefusedCall, Reply, Typed, Value
from orchestrator.sandboxes.work import File, send
from orchestrator.settings import Settings

pytestmark = pytest.mark.anyio

ROOM = exact.Room(1 << 30)

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_is_put_together_as_it_was_taken_apart(value: Any) -> None:
    assert json.loads(exact.dumps(exact.loads(json.dumps(value).encode()))) == value


@pytest.mark.parametrize("number", ["1e2", "-0.0", "NaN", "-Infinity", "1e999", "0.1000000000000000055", "7" * 6000])
def test_a_number_stays_the_text_it_is(number: str) -> None:
    assert exact.dumps(exact.loads(f'{{"a": [{number}]}}'.encode())) == f'{{"a":[{number}]}}'.encode()


def values(value: Any) -> int:
    """Values and names of members; what is empty counts for two."""
    if isinstance(value, list):
        return 1 + (sum(map(values, value)) or 1)
    return 1 + (sum(1 + values(each) for each in value.values()) or 1) if isinstance(value, dict) else 1


@given(json_values)
def test_values_are_counted_whatever_their_strings_hold(value: Any) -> None:
    text, count = json.dumps(value).encode(), values(value)
    exact.Room(count - 1).take(text)
    with pytest.raises(exact.TooManyValues):
        exact.Room(count - 2).take(text)


def test_a_room_is_for_all_that_is_taken_together() -> None:
    room = exact.Room(5)
    room.take(b"[1, 2]")
    room.take(b'["1,2,3,4,5,6,7,8", "\\"[[[[[[[["]')
    with pytest.raises(exact.TooManyValues, match="5"):
        room.take(b"[1, 2]")


async def test_what_has_more_values_than_there_is_room_for_is_not_taken_apart(tmp_path: Path) -> None:
    body = b'{"value": [{"$file": "f0"}, 1, 2, 3]}'
    await taken(Typed(body, (("f0", 3),), Whole(b"abc")), Names(()), spool(tmp_path), exact.Room(7))
    with pytest.raises(exact.TooManyValues):
        await taken(Typed(body, (("f0", 3),), Whole(b"abc")), Names(()), spool(tmp_path), exact.Room(5))
    passed_on = (await taken(Value(body), Names(()), spool(tmp_path), exact.Room(0))).value
    with pytest.raises(exact.TooManyValues):
        passed_on.items(exact.Room(5))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"$file": "f0"}, ["f0"]),
        ([{"$file": "f0"}, {"a": {"$array": "f1", "dtype": "<f8", "shape": [1]}}], ["f0", "f1"]),
        ({"$frame": "pandas", "columns": ["a"], "data": [{"$array": "f1", "dtype": "<f8", "shape": [1]}]}, ["f1"]),
        ({"$image": "f0", "type": "image/png"}, ["f0"]),
        ({"$object": {"$file": "f0"}}, []),
        ({"$object": {"$file": {"$file": "f0"}}}, ["f0"]),
        ({"$file": "f0", "more": 1}, []),
        ({"$file": 7}, []),
        ({"$array": "f1", "dtype": "<f8"}, []),
        ({"$ref": "f0"}, []),
    ],
)
def test_files_are_found_where_they_are_named_and_nowhere_else(value: Any, found: list[str]) -> None:
    assert sorted(members[tag] for members, tag in tagged(value, FILES)) == found


def test_a_reference_is_found_in_arguments_of_elements() -> None:
    function = [{"moduleName": "operator"}, {"name": "add", "args": [[{"$ref": "r1"}]]}]
    assert [members for members, _ in tagged(function, (REFERENCE,))] == [{"$ref": "r1"}]


def test_names_of_files_are_made_anew_and_never_twice() -> None:
    names = Names({"f1"})
    first = names.renamed([{"$file": "f0"}, {"$object": {"$file": "f0"}}], (File("f0", 1, b"a"),))
    second = names.renamed({"$file": "f0"}, (File("f0", 1, b"b"),))
    assert (first.value, second.value) == ([{"$file": "f0"}, {"$object": {"$file": "f0"}}], {"$file": "f2"})
    assert [(file.name, file.source) for file in (*first.files, *second.files)] == [("f0", b"a"), ("f2", b"b")]


def spool(directory: Path, **limits: int) -> Spool:
    return Spool(Settings(data_dir=directory, **limits))


class Pieces(Whole):
    """Content that comes in pieces."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in super().__aiter__():
            for at in range(0, len(data), 100_000):
                yield data[at : at + 100_000]


async def read(file: File) -> bytes:
    written: list[bytes] = []

    async def write(piece: bytes) -> None:
        written.append(piece)

    await send([file], write)
    return b"".join(written)


@pytest.mark.parametrize("size", [0, 10, 700_000, 3_000_000])
async def test_files_come_out_as_they_went_in_for_several_readers(tmp_path: Path, size: int) -> None:
    one, two = bytes(range(256)) * (size // 256), b"x" * size
    reply = Typed(
        b'{"error": false, "value": [{"$file": "f0"}, {"$file": "f1"}], "ms": 1}',
        (("f0", len(one)), ("f1", len(two))),
        Pieces(one + two),
    )
    value = (await taken(reply, Names(()), spool(tmp_path), ROOM)).value
    again = [shared(file) for file in value.files]
    for files in (value.files, again, value.files):
        assert [await read(file) for file in files] == [one, two]
    assert value.items(ROOM) == [{"$file": "f0"}, {"$file": "f1"}]


async def test_what_has_no_room_in_the_spool_is_refused(tmp_path: Path) -> None:
    small = spool(tmp_path, max_spooled_bytes=2_000_000, max_upload_bytes=2_000_000)
    reply = Typed(b'{"value": {"$file": "f0"}}', (("f0", 3_000_000),), Pieces(b"x" * 3_000_000))
    with pytest.raises(SpoolFull):
        await taken(reply, Names(()), small, ROOM)
    assert small.bytes == 0


@pytest.mark.parametrize("body", [b"{}", b'{"value": 1, "ms": "x"}', b'{"value": 1, "stderr": 1}'])
async def test_a_reply_that_no_runner_of_ours_sends_is_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(SandboxLost):
        await taken(Value(body), Names(()), spool(tmp_path), ROOM)


async def test_a_value_that_is_no_list_has_no_items(tmp_path: Path) -> None:
    value = (await taken(Value(b'{"value": {"a": 1}}'), Names(()), spool(tmp_path), ROOM)).value
    with pytest.raises(SandboxLost):
        value.items(ROOM)


@given(st.lists(st.tuples(st.text(), st.text()), max_size=4), st.text(), st.integers(0, 20))
def test_what_the_parts_print_is_one_text_within_the_bound(
    before: list[tuple[str, str]], last: str, max_bytes: int
) -> None:
    trail = Trail(max_bytes)
    for stdout, stderr in before:
        trail.add([Told(msgspec.Raw(b"1"), stdout=stdout, stderr=stderr, ms=1)])
    body = msgspec.json.encode({"error": False, "value": 7, "stdout": last, "ms": 1})
    reply = trail.with_reply(Value(body))
    assert isinstance(reply, Value)
    told = json.loads(reply.body)
    whole = "".join(stdout for stdout, _ in before) + last
    if not before:
        assert reply.body == body
    elif len(whole.encode()) <= max_bytes:
        assert told.get("stdout", "") == whole
    else:
        assert told["truncated"]
        assert whole.startswith(told.get("stdout", "")) or not told.get("stdout")
    assert told["ms"] == len(before) + 1


def test_a_trail_keeps_no_value() -> None:
    body = b'{"value": "%s", "stdout": "%s"}' % (b"x" * 1000, b"y" * 1000)
    free = sys.getrefcount(body)
    told = msgspec.json.decode(body, type=Told)
    assert sys.getrefcount(body) > free  # the value lies in it
    trail = Trail(10)
    trail.add([told])
    del told
    assert sys.getrefcount(body) == free
    assert json.loads(trail.with_reply(Value(b'{"value": 1}')).body)["stdout"] == "y" * 10  # type: ignore[union-attr]


DEEP = b'{"error": true, "detail": %s}' % (b"[" * 50_000 + b"]" * 50_000)


@pytest.mark.parametrize("reply", [Raised(DEEP), NotSerializable(DEEP)])
def test_a_reply_too_deep_to_be_read_stays_as_it_is(reply: Reply) -> None:
    trail = Trail(100)
    trail.add([Told(msgspec.Raw(b"1"), stdout="x")])
    assert trail.with_reply(reply) == reply
    assert located(reply, OfStages(Straight("a", Place(0, 1), ("x",)))) == reply


@pytest.mark.parametrize("reply", [RefusedCall("invalid_request", "no", None), Raised(b"no JSON of ours")])
def test_a_reply_that_holds_no_output_stays_as_it_is(reply: Any) -> None:
    trail = Trail(100)
    trail.add([Told(msgspec.Raw(b"1"), stdout="x")])
    assert trail.with_reply(reply) == reply
