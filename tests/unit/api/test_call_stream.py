"""A call as server-sent events."""

import asyncio
import json
from typing import Any

import pytest

from orchestrator.api import call_stream, sse
from orchestrator.api.accepting import accepted
from orchestrator.errors import KodouError, SessionNotFound
from orchestrator.sandboxes.events import Event, Events
from orchestrator.sandboxes.replies import Raised, RefusedCall, TimedOut, Value, Violation
from orchestrator.sessions.manager import CallOutcome

pytestmark = pytest.mark.anyio

URL = "/environment/python/call"
CALL = {"sessionid": "s", "namepath": "a"}
TOLD = [Event("output", b'{"stdout": "a\\n"}'), Event("item", b'{"index": 0, "value": 7}')]


async def streamed(api: Any) -> Any:
    return await api.client.post(URL, json=CALL, headers={**await api.bearer(), "Accept": "text/event-stream"})


def read(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_what_is_told_comes_in_order_and_the_result_last(api: Any) -> None:
    api.sessions.told = TOLD
    reply = await streamed(api)
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")
    assert read(reply.text) == [
        ("output", {"stdout": "a\n"}),
        ("item", {"index": 0, "value": 7}),
        ("result", {"cold": "none", "error": False, "value": 12}),
    ]


async def test_what_was_started_is_told_in_the_result_where_the_head_was_out_before(api: Any) -> None:
    api.sessions.told = TOLD
    api.sessions.restarted = True
    assert read((await streamed(api)).text)[-1] == ("result", {"cold": "session", "error": False, "value": 12})


async def test_a_call_that_tells_nothing_is_a_result_with_its_receipts(api: Any) -> None:
    api.sessions.restarted = True
    reply = await streamed(api)
    assert read(reply.text) == [("result", {"error": False, "value": 12})]
    assert (reply.headers["kodou-cold"], reply.headers["kodou-restarted"]) == ("session", "true")
    assert "start;dur=250.000" in reply.headers["server-timing"]


@pytest.mark.parametrize(
    ("reply", "code"), [(Raised(b'{"error": true, "code": "exception"}'), "exception"), (TimedOut(), "timeout")]
)
async def test_a_call_that_failed_is_a_result_too(api: Any, reply: Any, code: str) -> None:
    api.sessions.told = TOLD
    api.sessions.reply = reply
    name, data = read((await streamed(api)).text)[-1]
    assert (name, data["error"], data["code"]) == ("result", True, code)


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (RefusedCall("name_not_found", "no", "namepath"), 422, "name_not_found"),
        (Violation("garbage"), 503, "sandbox_lost"),
        (SessionNotFound("no"), 404, "session_not_found"),
    ],
)
async def test_a_problem_before_the_first_event_is_an_ordinary_one_and_after_it_an_event(
    api: Any, reply: Any, status: int, code: str
) -> None:
    api.sessions.reply = reply
    first = await streamed(api)
    assert (first.status_code, first.headers["content-type"]) == (status, "application/problem+json")
    assert first.json()["code"] == code
    api.sessions.told = TOLD
    after = await streamed(api)
    name, data = read(after.text)[-1]
    assert (after.status_code, name, data["code"], data["status"]) == (200, "error", code, status)


async def test_what_nobody_foresaw_tells_nothing_but_an_id(api: Any) -> None:
    api.sessions.told = TOLD
    api.sessions.reply = ValueError("/secret")
    name, data = read((await streamed(api)).text)[-1]
    assert (name, data["code"], data["status"]) == ("error", "internal", 500)
    assert "detail" not in data


class Sent:
    """What was sent, as it comes."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self, message: Any) -> None:
        self.messages.put_nowait(message)


async def _stream(send: Sent, ending: asyncio.Event, *, told: bool, reply: Value | KodouError) -> str:
    async def run(*, events: Events) -> CallOutcome:
        if told:
            events.tell(TOLD[0])
        await ending.wait()
        if isinstance(reply, KodouError):
            raise reply
        return CallOutcome(reply, False, 0.0, 0.0, 0.0)

    wanted = accepted(b"text/event-stream")
    return await call_stream.stream(send, run, wanted, request_id="r", auth_s=0.0, keep_alive_s=0.001)


async def test_the_head_waits_for_the_first_event_and_silences_are_filled_after_it() -> None:
    silent, told = Sent(), Sent()
    ending = asyncio.Event()
    waiting = asyncio.create_task(_stream(silent, ending, told=False, reply=Value(b"{}")))
    streaming = asyncio.create_task(_stream(told, ending, told=True, reply=Value(b"{}")))
    assert (await told.messages.get())["type"] == "http.response.start"
    assert (await told.messages.get())["body"] == b'event: output\ndata: {"stdout": "a\\n"}\n\n'
    assert (await told.messages.get())["body"].startswith(b": ")
    assert silent.messages.empty()
    ending.set()
    assert (await waiting, await streaming) == ("value", "value")
    assert silent.messages.get_nowait()["type"] == "http.response.start"
    assert silent.messages.get_nowait() == {"type": "http.response.body", "body": b"event: result\ndata: {}\n\n"}


async def test_events_that_come_faster_than_they_are_sent_go_out_together() -> None:
    count = 1000

    async def run(*, events: Events) -> CallOutcome:
        for index in range(count):
            events.tell(Event("item", b'{"index":%d}' % index))
        return CallOutcome(Value(b"{}"), False, 0.0, 0.0, 0.0)

    sent = Sent()
    await call_stream.stream(sent, run, accepted(b"text/event-stream"), request_id="r", auth_s=0.0)
    bodies = [sent.messages.get_nowait().get("body", b"") for _ in range(sent.messages.qsize())]
    assert len(bodies) == 3  # head, items, result
    assert [data["index"] for name, data in read(b"".join(bodies).decode()) if name == "item"] == list(range(count))


@pytest.mark.parametrize(
    "data",
    [b'{"a":\r\n1,\n\n"b": 2}', '{"a": "x\u2028y\u2029z\x85"}'.encode(), '{"ü": "日本"}'.encode()],
)
def test_an_event_is_one_line_of_data_for_every_reader(data: bytes) -> None:
    lines = sse.sent("result", data).decode().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[1].removeprefix("data: ")) == json.loads(data)


@pytest.mark.parametrize("body", [b"{}", b"{ }", b' \n{"a": 1}'])
def test_what_was_cold_is_put_into_any_object(body: bytes) -> None:
    outcome = CallOutcome(Value(body), True, 0.0, 1.0, 0.0)
    assert json.loads(call_stream._with_cold(body, outcome)) == {"cold": "session", **json.loads(body)}
