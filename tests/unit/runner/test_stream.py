"""Events of a call that is streamed: what is sent at once, what together, and in which order."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from runner import frames, stream
from runner.stream import Stream

from tests.unit.runner.conftest import PATIENCE_S, Orchestrator, receive

CODE = """
import os

def speak(count):
    for i in range(count):
        if i % 3 == 0:
            print(i)
        if i % 3 == 1:
            os.write(1, b"%d\\n" % i)  # past Python's own buffer
        yield i
    print("end")

def fork(count):
    for i in range(count):
        pid = os.fork() if i == 2 else 0
        if pid:
            os.waitpid(pid, 0)
        yield i

def fork_last(unwritable):
    if not os.fork():
        yield os if unwritable else 1
    os.wait()
"""


class Nothing:
    """A capture that nothing is printed to."""

    def follow(self, max_bytes: int, before_take: Callable[[], None]) -> tuple[()]:
        return ()

    def flush(self) -> None:
        return


class Sent:
    """A socket that notes what is sent with each system call."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.news = Event()

    def sendall(self, data: bytes) -> None:
        self.pieces.append(bytes(data))
        self.news.set()


def unpacked(data: bytes) -> list[tuple[int, dict[str, Any]]]:
    """Kinds and bodies of the frames in it."""
    found = []
    while data:
        kind, _, length, _, _ = frames.HEADER.unpack_from(data)
        end = frames.HEADER.size + length
        found.append((kind, json.loads(data[frames.HEADER.size : end])))
        data = data[end:]
    return found


def told(count: int, sent: Sent) -> Stream:
    events = Stream(sent, 7, Nothing(), 1000)  # type: ignore[arg-type]
    for index in range(count):
        events.item(index, b"%d" % index)
    return events


def test_the_first_items_are_sent_one_by_one_and_those_that_come_faster_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "_LOOK_S", PATIENCE_S)
    count = 10_000
    sent = Sent()
    events = told(count, sent)
    assert [len(unpacked(piece)) for piece in sent.pieces[: stream._AT_ONCE]] == [1] * stream._AT_ONCE
    events.close()
    assert len(sent.pieces) < count / 100
    assert max(map(len, sent.pieces)) < 2 * stream._PIECE_BYTES
    assert unpacked(b"".join(sent.pieces)) == [
        (frames.ITEM, {"index": index, "value": index}) for index in range(count)
    ]


def test_what_was_not_sent_at_once_is_sent_though_nothing_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_AT_ONCE", 0)
    sent = Sent()
    events = told(2, sent)
    assert sent.news.wait(PATIENCE_S)
    events.close()
    assert len(unpacked(b"".join(sent.pieces))) == 2


def streamed(user: Orchestrator, namepath: str, count: int) -> tuple[list[tuple[int, Any]], dict[str, Any]]:
    """The events of a call, and its reply."""
    user.send({"namepath": namepath, "args": [count]}, flags=frames.STREAM)
    assert user.calls is not None
    events: list[tuple[int, Any]] = []
    while frame := receive(user.calls):
        body = json.loads(frame.body)
        if frame.kind not in frames.EVENTS:
            return events, body
        events.append((frame.kind, body))
    raise AssertionError


@pytest.fixture
def user(session: Orchestrator, code: Path) -> Orchestrator:
    (code / "user.py").write_text(CODE)
    return session


def test_output_stands_before_the_items_that_came_after_it(user: Orchestrator) -> None:
    count = 3000
    events, reply = streamed(user, "user.speak", count)
    assert (reply["items"], [body["index"] for kind, body in events if kind == frames.ITEM]) == (
        count,
        list(range(count)),
    )
    printed = ""
    for kind, body in events:
        if kind == frames.OUTPUT:
            printed += body["stdout"]
        else:
            index = body["index"]
            last = index if index % 3 < 2 else index - 1
            assert printed.endswith(f"{last}\n")
    assert printed.endswith("end\n")


def test_a_process_that_a_generator_forked_tells_nothing(user: Orchestrator) -> None:
    events, reply = streamed(user, "user.fork", 5)
    assert [body["value"] for _, body in events] == [0, 1, 2, 3, 4]
    assert reply["items"] == 5


@pytest.mark.parametrize("unwritable", [False, True])
def test_a_process_that_a_generator_forked_is_in_no_place(user: Orchestrator, unwritable: bool) -> None:
    _, reply = streamed(user, "user.fork_last", unwritable)
    assert reply["items"] == 0
    assert "item" not in user.call("math.sqrt", -1).body
