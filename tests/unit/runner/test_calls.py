"""Requests and replies: envelopes, forms, items of generators as they come."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from types import ModuleType

import numpy as np
import pytest
from runner import frames
from runner.envelope import read

from .in_process import Session, Told, envelope


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user's, `subject`, for a test to fill."""
    module = ModuleType("subject")
    monkeypatch.setitem(sys.modules, "subject", module)
    return module


def test_without_an_envelope_a_reply_is_json(session: Session) -> None:
    reply = session.call("math.sqrt", 4)
    assert (reply.kind, reply.extra) == (frames.VALUE, b"")
    assert reply.body.keys() == {"error", "value", "ms"}


def test_the_form_that_is_liked_best_is_taken(session: Session) -> None:
    request = {"namepath": "numpy.arange", "args": [3]}
    reply = session.ask(frames.CALL, request, forms=["octets", "json"])
    assert (reply.kind, reply.body["form"], reply.body["type"]) == (frames.CONTENT, "octets", "numpy.ndarray")
    assert reply.extra == np.arange(3).astype("<i8").tobytes()
    assert reply.body["ms"] > 0
    assert session.ask(frames.CALL, request, forms=["json", "octets"]).value == [0, 1, 2]


def test_content_may_be_empty(session: Session) -> None:
    reply = session.ask(frames.CALL, {"namepath": "bytes"}, forms=["octets"])
    assert (reply.kind, reply.body["type"], reply.extra) == (frames.CONTENT, "bytes", b"")


def test_a_value_without_the_forms_asked_for_is_refused_with_those_it_has(session: Session) -> None:
    reply = session.ask(frames.CALL, {"namepath": "math.sqrt", "args": [4]}, forms=["png"])
    assert reply.refused == ("not_acceptable", None)
    assert {"json", "typed", "text"} <= set(reply.body["available"]) <= frames.FORMS


def test_a_reply_in_typed_form_has_its_files_beside_it(session: Session) -> None:
    reply = session.ask(frames.CALL, {"namepath": "copy.copy", "args": [{"$bytes": "AAE="}]}, forms=["typed"])
    assert reply.value == {"$file": "f0"}
    assert bytes(read(reply.extra).files["f0"]) == b"\0\1"


def test_large_files_are_sent_from_where_they_lie_and_small_ones_together(session: Session, module: ModuleType) -> None:
    array = np.arange(1 << 14)
    module.made = lambda: [b"a", b"b", array, b"c", array, array]  # type: ignore[attr-defined]
    frame = frames.Frame(frames.CALL, 0, 1, b'{"namepath": "subject.made"}', envelope(["typed"], {}))
    _, _, pieces = session.calls.answer(frame)
    assert [np.shares_memory(np.frombuffer(piece, "u1"), array) for piece in pieces] == [False, True, False, True, True]
    files = read(b"".join(pieces)).files
    assert [bytes(file) for file in files.values()] == [b"a", b"b", array.tobytes(), b"c", *[array.tobytes()] * 2]


def test_what_comes_out_in_typed_form_can_go_in_again(session: Session) -> None:
    first = session.ask(frames.CALL, {"namepath": "numpy.eye", "args": [2]}, forms=["typed"])
    files = {name: bytes(data) for name, data in read(first.extra).files.items()}
    again = session.ask(frames.CALL, {"namepath": "numpy.sum", "args": [first.value]}, files=files)
    assert again.value == 2


def test_a_call_that_fails_is_json_whatever_was_asked_for(session: Session) -> None:
    reply = session.ask(frames.CALL, {"namepath": "math.sqrt", "args": [-1]}, forms=["octets"])
    assert reply.raised[0] == "ValueError"


def test_items_of_a_generator_are_told_as_they_come(session: Session, module: ModuleType) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        assert told.items == [(0, 1)]
        yield 2

    async def later() -> AsyncIterator[int]:
        yield 3
        assert told.items == [(0, 3)]

    told = Told()
    module.numbers, module.later = numbers, later  # type: ignore[attr-defined]
    reply = session.ask(frames.CALL, {"namepath": "subject.numbers"}, events=told)
    assert told.items == [(0, 1), (1, 2)]
    assert (reply.value, reply.body["items"]) == (None, 2)
    told.items = []
    assert session.ask(frames.CALL, {"namepath": "subject.later"}, events=told).body["items"] == 1


def test_a_value_that_is_no_iterator_is_streamed_as_usual(session: Session) -> None:
    told = Told()
    reply = session.ask(frames.CALL, {"namepath": "list", "args": [[1]]}, events=told)
    assert (reply.value, told.items, "items" in reply.body) == ([1], [], False)


def test_items_that_are_told_are_not_bounded_in_number() -> None:
    told = Told()
    reply = Session({"max_items": 2}).ask(frames.CALL, {"namepath": "iter", "args": [[1, 2, 3]]}, events=told)
    assert (reply.body["items"], len(told.items)) == (3, 3)


def test_an_item_that_cannot_be_told_is_named(session: Session) -> None:
    told = Told()
    request = {"namepath": "map", "args": [{"$ref": session.keep("operator.attrgetter", "__class__")}, [1]]}
    reply = session.ask(frames.CALL, request, events=told)
    assert (reply.kind, reply.body["item"], told.items) == (frames.UNSERIALISABLE, 0, [])
    request = {"namepath": "iter", "args": [["x" * 400]]}
    reply = Session({"max_reply_bytes": 300}).ask(frames.CALL, request, events=told)
    assert (reply.body["code"], reply.body["item"]) == ("reply_too_large", 0)


def test_what_a_generator_raises_names_no_item(session: Session, module: ModuleType) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    module.numbers = numbers  # type: ignore[attr-defined]
    reply = session.ask(frames.CALL, {"namepath": "subject.numbers"}, events=Told())
    assert (reply.raised[0], "item" in reply.body) == ("ZeroDivisionError", False)


def test_a_description_is_a_value(session: Session) -> None:
    assert session.ask(frames.DESCRIBE, {"namepath": "math.sqrt"}).value["name"]
    assert session.ask(frames.DESCRIBE, {"namepath": "math.nothing"}).refused[0] == "attribute_not_found"
    name = session.keep("fractions.Fraction", 1, 3)
    assert session.ask(frames.DESCRIBE, {"namepath": [{"ref": name}]}).kind == frames.VALUE
    assert session.ask(frames.DESCRIBE, {"namepath": [{"ref": "r9"}]}).refused[0] == "reference_not_found"


def test_the_text_of_a_reply_is_one_json_object(session: Session) -> None:
    frame = frames.Frame(frames.CALL, 0, 1, json.dumps({"namepath": "len", "args": [[]]}).encode())
    kind, body, extra = session.calls.answer(frame)
    assert (kind, json.loads(body)["value"], extra) == (frames.VALUE, 0, [])


def test_an_exception_s_text_is_utf_8_whatever_it_holds(session: Session, module: ModuleType) -> None:
    """What is not would be taken for a runner that broke the protocol, and end the session."""

    def fail() -> None:
        raise ValueError(np.array([0xFFFFFFFF, 0xD800], "<u4").view("<U2").tolist()[0])

    module.fail = fail  # type: ignore[attr-defined]
    assert session.call("subject.fail").raised == ("ValueError", "\ufffd\ufffd")
