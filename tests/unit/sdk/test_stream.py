"""Streams of the server: setups and calls, as their bytes come."""

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import httpx
import kodou
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kodou import Item, KodouError, Output, Progress, Reply
from kodou.errors import BadReply, BuildFailed, RemoteError, SandboxLost
from kodou.messages import Setup
from kodou.stream import CallReader, Event, EventReader, SetupReader

from tests.unit.sdk.loopback import READY, Loopback

STREAM = (
    b": a sign of life\r\n\r\n"
    b"event: progress\r\n"
    b'data: {"phase": "fetch", "package": "numpy",\r\n'
    b'data:  "bytes": 10, "total": 20}\r\n\r\n'
    b'id: 3\nevent: progress\ndata: {"phase": "install", "line": "\xc3\xa9"}\n\n'
    b"event: ready\ndata:" + json.dumps(READY).encode() + b"\n\n"
)


members = st.dictionaries(
    st.sampled_from(
        ["value", "index", "stdout", "stderr", "error", "code", "status", "sessionid", "environment", "phase"]
    ),
    st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers(), max_size=2),
)


def event(name: str, members: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(members)}\n\n".encode()


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_reads_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    reader = SetupReader()
    bounds = [0, *sorted(cuts), len(STREAM)]
    *steps, setup = (told for start, end in pairwise(bounds) for told in reader.feed(STREAM[start:end], {}))
    assert isinstance(setup, Setup)
    assert setup.session_id == "the-session"
    assert steps == [Progress("fetch", "numpy", 10, 20), Progress("install", line="é")]


def test_an_error_event_raises_its_problem() -> None:
    problem = {"error": True, "code": "build_failed", "status": 422, "detail": "no", "log": "tail"}
    with pytest.raises(BuildFailed) as caught:
        list(SetupReader().feed(event("error", problem), {"x-request-id": "r"}))
    assert (caught.value.status, caught.value.log, caught.value.request_id) == (422, "tail", "r")


def test_an_event_without_a_name_or_data_follows_the_standard() -> None:
    reader = EventReader()
    assert list(reader.feed(b"data: a\ndata: b\n\nevent: x\n\ndata\n\n")) == [
        Event("message", "a\nb"),
        Event("message", ""),
    ]


@given(
    st.sampled_from(["ready", "output", "item", "result", "error"]),
    st.binary() | members.map(json.dumps).map(str.encode),
)
def test_whatever_streams_in_is_events_or_an_error_of_ours(name: str, chunk: bytes) -> None:
    for reader in (SetupReader(), CallReader()):
        with suppress(KodouError):
            list(reader.feed(f"event: {name}\ndata: ".encode() + chunk + b"\n\n", {}))


def test_a_call_tells_output_and_items_then_its_reply() -> None:
    told = CallReader().feed(
        event("output", {"stdout": "a"})
        + event("output", {"stderr": "b"})
        + event("item", {"index": 0, "value": {"$bytes": "aGk="}})
        + event("result", {"error": False, "value": None, "items": 1, "cold": "none"}),
        {},
    )
    assert list(told) == [Output("a"), Output("b", "stderr"), Item(0, b"hi"), Reply(None, items=1, cold="none")]


def test_a_call_that_fails_on_the_way_raises() -> None:
    failed = {"error": True, "code": "exception", "exception": {"type": "E", "message": "m", "traceback": "t"}}
    with pytest.raises(RemoteError):
        list(CallReader().feed(event("result", failed), {}))
    with pytest.raises(SandboxLost):
        list(CallReader().feed(event("error", {"code": "sandbox_lost", "status": 503}), {}))


# --- through the client ---


def streamed(*chunks: bytes) -> httpx.Response:
    def body() -> Iterator[bytes]:
        yield from chunks

    return httpx.Response(200, headers={"Content-Type": "text/event-stream; charset=utf-8"}, content=body())


def test_an_expression_streams(env: kodou.Environment, loopback: Loopback) -> None:
    loopback.answers = [streamed(event("output", {"stdout": "x"}), event("result", {"error": False, "value": 3}))]
    assert list(env.print("x").stream()) == [Output("x"), Reply(3)]
    assert loopback.requests[-1].headers["accept"] == "text/event-stream"


def test_a_call_refused_at_once_is_no_stream(env: kodou.Environment) -> None:
    with pytest.raises(kodou.errors.NameNotFound):
        list(env.no_such_name().stream())


def test_a_stream_that_ends_before_its_result_is_an_error(env: kodou.Environment, loopback: Loopback) -> None:
    loopback.answers = [streamed(event("output", {"stdout": "x"}))]
    with pytest.raises(BadReply, match="not known"):
        list(env.print("x").stream())


def test_what_several_sandboxes_tell_has_its_place() -> None:
    told = CallReader().feed(
        event("output", {"pipe": 1, "stage": 2, "stderr": "x"}) + event("item", {"pipe": 1, "index": 0, "value": 3}), {}
    )
    assert list(told) == [Output("x", "stderr", pipe=1, stage=2), Item(0, 3, pipe=1)]
