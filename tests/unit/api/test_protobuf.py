"""Calls in Protocol Buffers: what goes to the runner, what comes back, and what is refused on the way."""

import base64
import json
import math
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from runner import frames
from runner.evaluation.tags import Tags
from runner.values import typed

from orchestrator.api.problems import MalformedRequest
from orchestrator.api.protobuf import MAX_DEPTH, replies, requests, values
from orchestrator.api.protobuf.kodou_pb2 import (
    Arguments,
    CallReply,
    CallRequest,
    Element,
    Entry,
    Error,
    Frame,
    Image,
    List,
    Map,
    NdArray,
    Null,
    Reference,
    Value,
)
from orchestrator.api.protobuf.kodou_pb2 import (
    Exception as RaisedException,
)
from orchestrator.errors import InvalidRequest, KodouError, PayloadTooLarge, ReferenceNotFound
from orchestrator.sandboxes.content import Whole
from orchestrator.sandboxes.replies import NotSerializable, Raised, RefusedCall, TimedOut, Typed, WorkerDied
from orchestrator.sandboxes.replies import Value as ValueReply

ROOT = Path(__file__).resolve().parents[3]
MOST = 100_000
MEDIA_TYPE = "application/x-protobuf"

WORDS = st.text(max_size=6) | st.sampled_from(
    ["$file", "$ref", "$object", "$bytes", "$float", "NaN", "r1", "f0", "type", "repr"]
)
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63 - 2, 2**64 + 1)
    | st.floats()
    | WORDS
    | st.binary(max_size=9)
)
TREES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=20
)


def message(value: Any) -> Value:
    """A value as a client writes it."""
    match value:
        case None:
            return Value(null_value=Null())
        case bool():
            return Value(bool_value=value)
        case int() if -(2**63) <= value < 2**63:
            return Value(int64_value=value)
        case int() if 0 <= value < 2**64:
            return Value(uint64_value=value)
        case int():
            return Value(integer_value=str(value))
        case float():
            return Value(double_value=value)
        case str():
            return Value(string_value=value)
        case bytes():
            return Value(bytes_value=value)
        case list():
            return Value(list_value=List(values=map(message, value)))
        case dict():
            return Value(map_value=Map(entries=[Entry(key=key, value=message(item)) for key, item in value.items()]))
    return Value(ndarray_value=NdArray(dtype=value.dtype.str, shape=value.shape, data=value.tobytes()))


def plain(value: Value) -> Any:
    """A value as a client reads it."""
    kind = value.WhichOneof("kind")
    content = getattr(value, kind or "", None)
    match kind:
        case "null_value":
            return None
        case "integer_value":
            return int(content)
        case "list_value":
            return [plain(item) for item in content.values]
        case "map_value":
            return {entry.key: plain(entry.value) for entry in content.entries}
        case "ndarray_value":
            return np.frombuffer(content.data, content.dtype).reshape(content.shape)
        case _:
            return content


def call(*args: Value, **members: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON and files that a request comes to."""
    body, files = requests.call_of(
        CallRequest(args=args, **members).SerializeToString(), most_fields=MOST, most_bytes=MOST
    )
    return json.loads(body), {file.name: bytes(file.source) for file in files}  # type: ignore[arg-type]


def arguments(*args: Value) -> list[Any]:
    """What the runner makes of them."""
    found, files = call(*args)
    tags = Tags(lambda: None, {name: memoryview(data) for name, data in files.items()})  # type: ignore[arg-type,return-value]
    resolved = [tags.resolve(each, "args") for each in found["args"]]
    tags.check_all_named()
    return resolved


def returned(value: Any) -> CallReply:
    """What a client gets where the runner has this value."""
    text, _, files = typed.encode(value, max_bytes=MOST, max_content_bytes=MOST)
    parts = {name: memoryview(data) for name, data in files}
    return CallReply.FromString(replies.message(b'{"error":false,"value":' + text + b"}", parts, most_values=MOST))


def same(a: Any, b: Any) -> bool:
    """Equal, each of the same type, NaN and -0.0 too."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


# --- the way there ---


@given(TREES)
def test_an_argument_arrives_as_what_it_is(value: Any) -> None:
    assert same(arguments(message(value)), [value])


@pytest.mark.parametrize("dtype", ["<f8", "<i4", "|u1", "|b1", "<c16", "<M8[s]", "<U3", "|S2"])
def test_an_array_arrives_as_one(dtype: str) -> None:
    array = np.arange(6).astype(dtype).reshape(2, 3)
    assert same(arguments(message(array))[0], array)


def test_a_frame_an_image_and_a_kept_object_become_their_tags() -> None:
    found, files = call(
        Value(frame_value=Frame(library="pandas", columns=[message("a")], data=[message([1])], index=message([5]))),
        Value(image_value=Image(media_type="image/png", data=b"png")),
        Value(ref_value=Reference(name="r1")),
    )
    assert found["args"] == [
        {"$frame": "pandas", "columns": ["a"], "index": [5], "data": [[1]]},
        {"$image": "f0", "type": "image/png"},
        {"$ref": "r1"},
    ]
    assert files == {"f0": b"png"}


def test_a_whole_request_becomes_the_json_of_a_call() -> None:
    found, _ = call(
        message(1),
        sessionid="s",
        timeout_ms=500,
        namepath=[
            Element(module="numpy"),
            Element(
                name="array", arguments=Arguments(args=[message([1])], kwargs=[Entry(key="ndmin", value=message(2))])
            ),
            Element(name="sum", arguments=Arguments()),
        ],
        kwargs=[Entry(key="$ref", value=message("r1"))],
        keep=True,
        drop=["r1"],
    )
    assert found == {
        "sessionid": "s",
        "timeout": 500,
        "namepath": [
            {"moduleName": "numpy"},
            {"name": "array", "args": [[1]], "kwargs": {"ndmin": 2}},
            {"name": "sum", "args": [], "kwargs": {}},
        ],
        "args": [1],
        "kwargs": {"$ref": "r1"},
        "keep": True,
        "drop": ["r1"],
    }


def test_few_bytes_go_as_text_and_many_as_a_file() -> None:
    found, files = call(message(b"x" * 1000), message(b"y" * 2000), message([b""] * 3))
    assert found["args"] == [
        {"$bytes": base64.b64encode(b"x" * 1000).decode()},
        {"$file": "f0"},
        [{"$bytes": ""}] * 3,
    ]
    assert files == {"f0": b"y" * 2000}


def test_numbers_that_json_lacks_go_as_json_too() -> None:
    body, _ = requests.call_of(
        CallRequest(args=[message(math.nan), message(-math.inf)]).SerializeToString(), most_fields=MOST, most_bytes=MOST
    )
    assert body == b'{"args":[{"$float":"NaN"},{"$float":"-Infinity"}]}'


def test_what_is_not_said_is_not_in_the_call() -> None:
    assert call() == ({}, {})


# --- refusals ---


def deep(count: int) -> CallRequest:
    """An argument inside so many lists."""
    request = CallRequest()
    inner = request.args.add()
    for _ in range(count):
        inner = inner.list_value.values.add()
    inner.bool_value = True
    return request


@pytest.mark.parametrize(
    ("request_", "error", "field"),
    [
        (CallRequest(args=[Value()]), InvalidRequest, "args[0]"),
        (CallRequest(kwargs=[Entry(key="a")]), InvalidRequest, "kwargs.a"),
        (CallRequest(namepath=[Element()]), InvalidRequest, "namepath[0]"),
        (
            CallRequest(namepath=[Element(name="f", arguments=Arguments(args=[message(1), Value()]))]),
            InvalidRequest,
            "namepath[0].args[1]",
        ),
        (CallRequest(args=[Value(list_value=List(values=[Value()]))]), InvalidRequest, "args[0][0]"),
        (CallRequest(args=[Value(integer_value="1_0")]), InvalidRequest, "args[0]"),
        (CallRequest(args=[Value(integer_value="")]), InvalidRequest, "args[0]"),
        (CallRequest(args=[Value(integer_value="9" * 4301)]), InvalidRequest, "args[0]"),
        (CallRequest(args=[Value(ref_value=Reference(name="../x"))]), ReferenceNotFound, "args[0]"),
        (CallRequest(kwargs=[Entry(key="a", value=message(1))] * 2), InvalidRequest, "kwargs"),
        (
            CallRequest(args=[Value(map_value=Map(entries=[Entry(key="a", value=message(1))] * 2))]),
            InvalidRequest,
            "args[0]",
        ),
        (deep(60), InvalidRequest, "args"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_where_it_stands(request_: CallRequest, error: type[KodouError], field: str) -> None:
    with pytest.raises(error) as refused:
        requests.call_of(request_.SerializeToString(), most_fields=MOST, most_bytes=MOST)
    assert refused.value.field == field  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("body", "error", "field"),
    [
        (b"\x7a\x01a", InvalidRequest, "15"),  # a field 15
        (b"\x22\x04\x1a\x02\xf8\x01", InvalidRequest, "args.int64_value"),  # bytes for a number
        (b"\x22\x03\xa0\x06\x01", InvalidRequest, "args.100"),
        (b"\x08\x01", InvalidRequest, "sessionid"),  # a number
        (b"\x0a\x05ab", MalformedRequest, None),  # ends inside
        (b"\x0b\x0c", InvalidRequest, "sessionid"),  # a group
        (b"\xff" * 11, MalformedRequest, None),
        (b"\x0a\x02\xff\xfe", MalformedRequest, None),  # no UTF-8
        (b'{"namepath": "math.sqrt"}', InvalidRequest, "15"),  # JSON
    ],
)
def test_bytes_that_are_no_request_are_refused(body: bytes, error: type[KodouError], field: str | None) -> None:
    with pytest.raises(error) as refused:
        requests.call_of(body, most_fields=MOST, most_bytes=MOST)
    assert type(refused.value) is error
    assert refused.value.field == field  # type: ignore[attr-defined]


@given(st.binary(max_size=40))
def test_any_bytes_are_a_call_or_refused(body: bytes) -> None:
    try:
        found, _ = requests.call_of(body, most_fields=MOST, most_bytes=MOST)
    except KodouError:
        return
    assert isinstance(json.loads(found), dict)


@given(TREES, st.randoms())
def test_a_damaged_request_is_a_call_or_refused(value: Any, chance: random.Random) -> None:
    body = bytearray(CallRequest(args=[message(value)], namepath=[Element(name="a")]).SerializeToString())
    for _ in range(3):
        body[chance.randrange(len(body))] = chance.randrange(256)
    try:
        requests.call_of(bytes(body), most_fields=MOST, most_bytes=MOST)
    except KodouError:
        return
    CallRequest.FromString(bytes(body))  # what is taken is a message


def test_more_fields_than_are_allowed_are_refused_before_they_take_memory() -> None:
    body = CallRequest(args=[Value(null_value=Null())] * 500).SerializeToString()
    requests.call_of(body, most_fields=1000, most_bytes=MOST)
    with pytest.raises(PayloadTooLarge):
        requests.call_of(body, most_fields=999, most_bytes=MOST)
    shape = CallRequest(args=[Value(ndarray_value=NdArray(shape=[1] * 2000))]).SerializeToString()
    with pytest.raises(PayloadTooLarge):
        requests.call_of(shape, most_fields=1000, most_bytes=MOST)


def test_more_files_than_are_allowed_are_refused_and_any_number_of_few_bytes_is_taken() -> None:
    image, few = Value(image_value=Image(data=b"x")), message(b"x")
    body = CallRequest(args=[image] * requests.MOST_FILES + [few] * 100).SerializeToString()
    _, files = requests.call_of(body, most_fields=MOST, most_bytes=10**6)
    assert len(files) == requests.MOST_FILES <= frames.MAX_FILES
    with pytest.raises(PayloadTooLarge, match="make one array"):
        call(*[image] * (requests.MOST_FILES + 1))


def test_a_request_that_is_larger_as_json_than_a_body_may_be_is_refused() -> None:
    body = CallRequest(args=[message("\1" * 1000)]).SerializeToString()
    text, _ = requests.call_of(body, most_fields=MOST, most_bytes=6013)
    assert len(text) == 6013 > 5 * len(body)
    with pytest.raises(PayloadTooLarge) as refused:
        requests.call_of(body, most_fields=MOST, most_bytes=6012)
    assert refused.value.limit_bytes == 6012


# --- the way back ---


@given(TREES)
def test_a_value_comes_back_as_what_it_is(value: Any) -> None:
    assert same(plain(returned(value).value), value)


def test_arrays_frames_and_images_come_back_in_binary() -> None:
    import pandas

    array = np.arange(6.0).reshape(2, 3)
    assert same(plain(returned({"a": [array]}).value)["a"][0], array)
    frame = returned(pandas.DataFrame({"a": [1.5, math.nan], "b": ["x", "y"]})).value.frame_value
    assert (frame.library, [plain(each) for each in frame.columns]) == ("pandas", ["a", "b"])
    assert same(plain(frame.data[0]), np.array([1.5, math.nan]))
    assert plain(frame.data[1]) == ["x", "y"]

    class Picture:
        def _repr_png_(self) -> bytes:
            return b"\x89PNG"

    assert returned(Picture()).value.image_value == Image(media_type="image/png", data=b"\x89PNG")


def test_a_kept_object_is_a_reference() -> None:
    body = b'{"error":false,"value":{"$ref":"r1","type":"int","repr":"3"}}'
    reply = CallReply.FromString(replies.message(body, {}, most_values=MOST))
    assert reply.value.ref_value == Reference(name="r1", type="int", repr="3")


def test_nesting_up_to_what_parsers_take_comes_back_and_no_more() -> None:
    value: Any = 1
    for _ in range((MAX_DEPTH - 1) // 2):
        value = [value]
    assert plain(returned(value).value) == value
    with pytest.raises(values.TooDeep):
        returned([[value]])


def test_more_values_than_are_allowed_do_not_come_back() -> None:
    body = b'{"error":false,"value":[' + b",".join([b"1"] * 1000) + b"]}"
    with pytest.raises(PayloadTooLarge):
        replies.message(body, {}, most_values=900)
    text = json.dumps({"error": False, "value": "," * 1000 + '"['}).encode()
    assert CallReply.FromString(replies.message(text, {}, most_values=900)).value.string_value == "," * 1000 + '"['


def test_counting_the_values_of_a_reply_takes_less_memory_than_the_reply() -> None:
    body = json.dumps({"error": False, "value": ["a,\\" * 1_000_000, [1] * 1000, [""] * 1_000_000]}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            replies.message(body, {}, most_values=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < len(body)
    finally:
        tracemalloc.stop()


@given(TREES)
def test_the_values_of_a_reply_are_counted_outside_its_strings_only(value: Any) -> None:
    value = json.loads(json.dumps(value, default=repr))
    body = json.dumps({"error": False, "value": value, "stdout": '[{\\",' * 50}).encode()
    most = 3 + separators(value)
    replies.message(body, {}, most_values=most)
    with pytest.raises(PayloadTooLarge):
        replies.message(body, {}, most_values=most - 1)


def separators(value: Any) -> int:
    """Commas and opening brackets of its JSON."""
    if not isinstance(value, list | dict):
        return 0
    items = value.values() if isinstance(value, dict) else value
    return 1 + max(len(value) - 1, 0) + sum(map(separators, items))


def test_a_file_that_is_named_twice_is_given_once() -> None:
    body = b'{"error":false,"value":[{"$file":"f0"},{"$file":"f0"}]}'
    found = plain(CallReply.FromString(replies.message(body, {"f0": memoryview(b"abc")}, most_values=MOST)).value)
    assert found == [b"abc", {"$file": "f0"}]


TAGS = st.sampled_from(
    [
        {"$file": "f0"}, {"$file": "f9"}, {"$file": 1}, {"$bytes": "AA=="}, {"$bytes": "!"}, {"$object": {"$file": "f0"}},
        {"$object": 3}, {"$array": "f0", "dtype": 1, "shape": [1]}, {"$array": "f0", "dtype": "<f8", "shape": [-1]},
        {"$array": "f0", "dtype": "<f8", "shape": [2**70]}, {"$image": "f0", "type": None}, {"$float": "NaN"}, {"$float": "1"},
        {"$frame": "pandas", "columns": 1, "data": {}}, {"$frame": "x", "columns": [1], "index": None, "data": [[{}]]},
        {"$ref": "r1", "type": 1, "repr": []}, {"$ref": 1, "type": "", "repr": ""},
    ]
)  # fmt: skip
HOSTILE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | TAGS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=15,
)
MEMBERS = ["error", "value", "stdout", "truncated", "type", "ms", "code", "detail", "exception", "exit_code", "signal"]


@given(st.dictionaries(st.sampled_from(MEMBERS), HOSTILE), st.binary(max_size=8))
def test_whatever_a_runner_says_is_a_reply(members: dict[str, Any], data: bytes) -> None:
    body = json.dumps(members).encode()  # lone surrogates stay in it, as escapes
    reply = replies.message(body, {"f0": memoryview(data)}, most_values=MOST)
    assert CallReply.FromString(reply).WhichOneof("outcome") in ("value", "error")


def test_nesting_past_all_bounds_is_too_deep() -> None:
    with pytest.raises(values.TooDeep):
        replies.message(b'{"error":false,"value":' + b"[" * 90_000 + b"]" * 90_000 + b"}", {}, most_values=MOST)


# --- the endpoint ---


async def post(api: Any, body: bytes, accept: str = MEDIA_TYPE, content_type: str = MEDIA_TYPE) -> httpx.Response:
    headers = {**await api.bearer(), "Content-Type": content_type, "Accept": accept, "X-Session-ID": "s"}
    reply: httpx.Response = await api.client.post("/environment/python/call", content=body, headers=headers)
    return reply


SQRT = CallRequest(namepath=[Element(name="math.sqrt")], args=[message(4.0)])


@pytest.mark.anyio
async def test_a_request_and_its_reply_may_each_be_of_either_kind(api: Any) -> None:
    api.sessions.reply = ValueReply(
        b'{"error":false,"value":2.0,"stdout":"x","truncated":true,"type":"float","ms":0.5}'
    )
    as_json = await post(api, SQRT.SerializeToString(), "application/json", content_type="application/protobuf")
    assert as_json.json()["value"] == 2.0
    for body, content_type in (
        (SQRT.SerializeToString(), MEDIA_TYPE),
        (b'{"namepath": "math.sqrt", "args": [4.0]}', "application/json"),
    ):
        reply = await post(api, body, content_type=content_type)
        assert reply.headers["content-type"] == MEDIA_TYPE
        assert reply.headers["kodou-cold"] == "none"
        assert CallReply.FromString(reply.content) == CallReply(
            value=message(2.0), stdout="x", truncated=True, type="float", ms=0.5
        )
        assert api.sessions.work[-1].forms == ("typed",)
        assert json.loads(api.sessions.work[-1].body) == {
            "namepath": [{"name": "math.sqrt"}] if content_type == MEDIA_TYPE else "math.sqrt",
            "args": [4.0],
        }


@pytest.mark.anyio
async def test_what_a_request_comes_to_is_among_the_bodies_held(make_api: Any) -> None:
    api = await make_api(max_body_bytes=4096, max_held_bytes=4096)
    inflated = CallRequest(namepath=[Element(name="len")], args=[message("\1" * 700)])
    assert len(inflated.SerializeToString()) < 1024
    assert (await post(api, inflated.SerializeToString())).status_code == 413
    inflated.args[0].string_value = "\1" * 400
    inflated.args.append(message(b"x" * 2000))
    assert (await post(api, inflated.SerializeToString())).status_code == 503
    inflated.args.pop()
    assert (await post(api, inflated.SerializeToString())).status_code == 200


@pytest.mark.anyio
async def test_what_is_not_small_is_worked_on_in_a_thread(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def watched(work: Any) -> Any:
        return lambda *args, **bounds: (threads.append(threading.current_thread()), work(*args, **bounds))[1]

    monkeypatch.setattr(requests, "call_of", watched(requests.call_of))
    monkeypatch.setattr(replies, "message", watched(replies.message))
    for size in (10, 5000):
        text = "x" * size
        api.sessions.reply = ValueReply(b'{"error":false,"value":"%s"}' % text.encode())
        request = CallRequest(namepath=[Element(name="len")], args=[message(text)])
        assert (await post(api, request.SerializeToString())).status_code == 200
    api.sessions.reply = Typed(b'{"error":false,"value":{"$file":"f0"}}', (("f0", 5000),), Whole(b"x" * 5000))
    await post(api, SQRT.SerializeToString())
    main = threading.main_thread()
    assert [thread is main for thread in threads] == [True, True, False, False, True, False]


@pytest.mark.anyio
async def test_files_of_a_typed_reply_are_in_the_message(api: Any) -> None:
    content = Whole(b"abcde")
    api.sessions.reply = Typed(
        b'{"error":false,"value":[{"$file":"f0"},{"$file":"f1"}]}', (("f0", 2), ("f1", 3)), content
    )
    reply = await post(api, SQRT.SerializeToString())
    assert plain(CallReply.FromString(reply.content).value) == [b"ab", b"cde"]


@pytest.mark.anyio
async def test_what_is_too_large_for_memory_is_an_error(make_api: Any) -> None:
    api = await make_api(max_reply_bytes=1024)
    api.sessions.reply = Typed(b'{"error":false,"value":{"$file":"f0"}}', (("f0", 2000),), Whole(b"x" * 2000))
    reply = await post(api, SQRT.SerializeToString())
    assert CallReply.FromString(reply.content).error.code == "reply_too_large"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (
            Raised(b'{"error":true,"code":"exception","exception":{"type":"E","message":"m","traceback":"t"},"field":"tuple[1]"}'),
            Error(code="exception", exception=RaisedException(type="E", message="m", traceback="t"), field="tuple[1]"),
        ),
        (
            NotSerializable(b'{"error":true,"code":"value_not_serializable","detail":"d","type":"T","repr":"<T>"}'),
            Error(code="value_not_serializable", detail="d", type="T", repr="<T>"),
        ),
        (TimedOut(), Error(code="timeout", detail="the call did not end within its timeout and was stopped")),
        (
            WorkerDied(3, None),
            Error(code="worker_died", detail="the interpreter that ran the call ended with exit code 3", exit_code=3),
        ),
    ],
)  # fmt: skip
async def test_what_failed_in_the_session_is_an_error_with_status_200(api: Any, reply: Any, error: Error) -> None:
    api.sessions.reply = reply
    found = await post(api, SQRT.SerializeToString())
    assert found.status_code == 200
    assert CallReply.FromString(found.content).error == error
    assert CallReply.FromString(found.content).restarted == isinstance(reply, TimedOut | WorkerDied)


@pytest.mark.anyio
async def test_refusals_are_problem_documents(api: Any) -> None:
    wrong = await post(api, b"\x7a\x01a")
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")
    assert wrong.headers["content-type"] == "application/problem+json"
    assert (await post(api, b"\x0a\x05ab")).status_code == 400
    api.sessions.reply = RefusedCall("name_not_found", "no such", "namepath[0]")
    refused = await post(api, SQRT.SerializeToString())
    assert (refused.status_code, refused.json()["code"]) == (422, "name_not_found")
    nothing = await post(api, b"")
    assert (nothing.status_code, nothing.json()["field"]) == (422, "namepath")


# --- generated code ---


def test_generated_code_is_that_of_the_proto_file() -> None:
    assert subprocess.run([sys.executable, ROOT / "scripts" / "proto", "--check"]).returncode == 0


def test_a_parser_that_meets_deeper_messages_than_ours_refuses_them() -> None:
    """So that our bound is the one that holds."""
    with pytest.raises(DecodeError):
        CallRequest.FromString(deep(60).SerializeToString())
