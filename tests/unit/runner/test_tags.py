"""Tags in arguments: what stands for kept objects, files and bytes."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner import frames
from runner.evaluation.strict import MAX_DEPTH
from runner.evaluation.tags import tag_of

from .in_process import Reply, Session


@pytest.fixture
def session() -> Session:
    return Session()


def call(session: Session, namepath: Any, *args: Any, files: dict[str, bytes]) -> Reply:
    return session.ask(frames.CALL, {"namepath": namepath, "args": args}, files=files)


def test_a_file_is_the_bytes_of_a_part(session: Session) -> None:
    assert call(session, "repr", {"$file": "a"}, files={"a": b"\0\xff"}).value == repr(b"\0\xff")
    assert call(session, "len", [{"$file": "a"}, {"x": {"$file": "b"}}], files={"a": b"", "b": b"1"}).value == 2


def test_a_part_may_be_named_twice(session: Session) -> None:
    assert call(session, "operator.add", {"$file": "a"}, {"$file": "a"}, files={"a": b"12"}).value == {
        "$bytes": base64.b64encode(b"1212").decode()
    }


def test_a_part_that_was_not_sent_is_refused(session: Session) -> None:
    assert session.call("len", {"$file": "a"}).refused == ("invalid_request", "args[0]")
    reply = session.call("len", kwargs={"x": [1, {"y": {"$file": "a"}}]})
    assert reply.refused == ("invalid_request", "kwargs.x[1].y")


def test_a_part_that_nothing_names_is_refused(session: Session) -> None:
    assert call(session, "len", [1], files={"a": b"x"}).refused == ("invalid_request", "a")
    assert call(session, "len", {"$file": "b"}, files={"a": b"x", "b": b"y"}).refused == ("invalid_request", "a")


def test_bytes_are_base64(session: Session) -> None:
    assert session.call("repr", {"$bytes": "AP8="}).value == repr(b"\0\xff")
    for text in ("AP8", "A*8=", "é"):
        assert session.call("len", [{"$bytes": text}]).refused == ("invalid_request", "args[0][0]")


def test_an_array_is_the_bytes_of_a_part_in_a_shape(session: Session) -> None:
    array = np.arange(6, dtype="<i2").reshape(2, 3)
    tag = {"$array": "a", "dtype": "<i2", "shape": [2, 3]}
    assert call(session, "numpy.transpose", tag, files={"a": array.tobytes()}).value == array.T.tolist()
    reply = call(session, "numpy.transpose", {**tag, "shape": [7]}, files={"a": array.tobytes()})
    code, field = reply.refused
    assert (code, (field or "")[:7]) == ("invalid_request", "args[0]")


def test_a_frame_is_made_of_columns(session: Session) -> None:
    frame = {
        "$frame": "pandas",
        "columns": ["a", "b"],
        "data": [{"$array": "x", "dtype": "<f8", "shape": [2]}, ["u", "v"]],
    }
    reply = call(session, "builtins.str", frame, files={"x": np.array([1.5, 2.5]).tobytes()})
    assert "1.5" in reply.value
    assert "v" in reply.value


def test_an_image_of_another_session_is_its_bytes(session: Session) -> None:
    image = {"$image": "f0", "type": "image/png"}
    assert call(session, "len", image, files={"f0": b"PNG"}).value == 3


def test_an_image_as_in_plain_json_is_its_bytes(session: Session) -> None:
    assert session.call("repr", {"$image": "UE5H", "type": "image/png"}).value == repr(b"PNG")


def test_an_image_that_is_neither_a_part_nor_base64_is_refused(session: Session) -> None:
    reply = call(session, "len", {"$file": "f0"}, {"$image": "f1", "type": "image/png"}, files={"f0": b"PNG"})
    assert reply.refused == ("invalid_request", "args[1]")


def test_a_tag_in_an_object_tag_is_data(session: Session) -> None:
    for data in (
        {"$file": "a"},
        {"$ref": "r1"},
        {"$ref": "r1", "type": "x", "repr": "y"},
        {"$bytes": "!"},
        {"$object": {}},
        {"$object": {"$object": 1}},
    ):
        assert session.call("builtins.dict", {"$object": data}).value == data
    assert session.call("builtins.dict", {"$object": {"$bytes": {"$bytes": "!"}}}).refused[0] == "invalid_request"


@pytest.mark.parametrize(
    "data",
    [
        {"$ref": "#/definitions/x"},
        {"$ref": "r"},
        {"$ref": 1},
        {"$ref": "r1", "type": "x"},
        {"$ref": "r1", "type": "x", "repr": "y", "more": 1},
        {"$ref": "#/definitions/x", "type": "x", "repr": "y"},
        {"$ref": 1, "type": "x", "repr": "y"},
        {"$file": 1},
        {"$bytes": None},
        {"$object": [1]},
        {"$array": "a"},
        {"$array": [1], "dtype": "<f8", "shape": [1]},
        {"$array": "a", "dtype": "<f8", "shape": [1], "more": 1},
        {"$frame": "pandas"},
        {"$other": "x"},
    ],
)
def test_what_only_resembles_a_tag_is_data(session: Session, data: dict[str, Any]) -> None:
    assert session.call("builtins.dict", data).value == data


def test_tags_count_wherever_arguments_are(session: Session) -> None:
    one, name = {"$bytes": "MQ=="}, session.keep("int", "1")
    assert session.call([{"name": "bytes.decode", "args": [one]}]).value == "1"
    assert session.call("int", kwargs={}, tuple=[{"value": one, "type": "bytes.decode"}]).value == 1
    assert session.call("sum", tuple=[{"array": [{"$ref": name}] * 2, "type": "int"}]).value == 2
    assert session.compose(listop={"op": "map", "function": "len", "list": [one, one]}).value == [1, 1]
    assert session.call("int", args={"base": {"$ref": name}}, kwargs={}).kind == frames.RAISED


def test_keyword_arguments_are_no_tag_themselves(session: Session) -> None:
    assert session.call("dict", args={"$ref": "r1"}).value == {"$ref": "r1"}
    assert session.call("dict", kwargs={"$file": "x"}).value == {"$file": "x"}


def test_a_tag_may_be_written_with_escapes(session: Session) -> None:
    body = rb'{"namepath": "len", "args": [{"\u0024bytes": "AAAA"}]}'
    assert session.ask(frames.CALL, body).value == 3


def test_a_tag_may_be_as_deep_as_arguments(session: Session) -> None:
    depth = (MAX_DEPTH - 4) // 2
    body = '{"namepath": "len", "args": [' + '[{"a":' * depth + '{"$bytes": ""}' + "}]" * depth + "]}"
    assert session.ask(frames.CALL, body.encode()).value == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["$ref", "$file", "$bytes", "$object", "$array", "dtype", "shape", "a"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


def escaped(value: Any) -> Any:
    if isinstance(value, dict):
        inner = {name: escaped(item) for name, item in value.items()}
        return {"$object": inner} if tag_of(inner) else inner
    return [escaped(item) for item in value] if isinstance(value, list) else value


SESSION = Session()


@given(value=json_values)
def test_whatever_looks_like_a_tag_can_be_sent_as_data(value: Any) -> None:
    assert SESSION.call("copy.copy", escaped(value)).value == value


@given(value=json_values)
def test_any_arguments_are_resolved_or_refused(value: Any) -> None:
    reply = SESSION.ask(frames.CALL, json.dumps({"namepath": "copy.copy", "args": [value]}).encode())
    assert reply.kind == frames.VALUE or reply.refused[0] in ("invalid_request", "reference_not_found")
