import json
import re
from time import perf_counter
from typing import Any

import anyio
import httpx
import pytest

from orchestrator.api import call_replies, receipts
from orchestrator.api.setups import Timing
from orchestrator.sandboxes.replies import Value
from orchestrator.sessions.manager import CallOutcome

URL = "/environment/python/setup"


def phases(reply: httpx.Response) -> dict[str, float]:
    """Milliseconds by phase, in their order."""
    told = reply.headers["server-timing"]
    assert re.fullmatch(r"[a-z]+;dur=\d+\.\d{3}(, [a-z]+;dur=\d+\.\d{3})*", told)
    return {name: float(ms) for name, ms in (entry.split(";dur=") for entry in told.split(", "))}


def test_phases_are_told_in_milliseconds_in_their_order() -> None:
    assert receipts.server_timing([("queue", 0.0), ("run", 1.2345678)]) == b"queue;dur=0.000, run;dur=1234.568"
    assert receipts.server_timing([]) == b""


@pytest.mark.parametrize(
    ("started_s", "restarted", "cold"), [(0.0, False, b"none"), (0.2, False, b"session"), (0.2, True, b"session")]
)
def test_sandboxes_that_were_started_are_told_and_a_fresh_interpreter_apart(
    started_s: float, restarted: bool, cold: bytes
) -> None:
    """Those that a list operation is spread over leave the session's own as it was."""
    outcome = CallOutcome(Value(b"{}"), restarted, queued_s=0.0, started_s=started_s, ran_s=0.0)
    told = dict(call_replies.receipts_of(outcome, auth_s=0.0))
    assert (told[b"kodou-cold"], b"kodou-restarted" in told) == (cold, restarted)
    assert (b"start;" in told[b"server-timing"]) == (started_s > 0)


def test_who_joins_a_build_waits_for_the_rest_of_it_alone() -> None:
    timing = Timing(auth_s=0.5)
    timing.built()
    told = dict(timing.phases(turn_came=perf_counter() - 100))
    assert list(told) == ["auth", "queue", "build", "start"]
    assert (told["auth"], told["queue"]) == (0.5, 0)
    assert 0 <= told["build"] < 100


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reused", "warm", "turn_came", "cold", "names"),
    [
        (True, True, None, "none", ["auth", "start"]),
        (True, False, None, "session", ["auth", "start"]),
        (False, False, 0.0, "environment", ["auth", "queue", "build", "start"]),
    ],
)
async def test_a_setup_says_what_it_had_to_make_and_how_long_that_took(
    api: Any, reused: bool, warm: bool, turn_came: float | None, cold: str, names: list[str]
) -> None:
    api.sessions.warm = warm
    api.environments.build = api.build(reused=reused)
    api.environments.build.turn_came = turn_came
    reply = await api.client.post(URL, json={}, headers=await api.bearer())
    assert (reply.headers["kodou-cold"], reply.json()["cold"]) == (cold, cold)
    assert list(phases(reply)) == names


@pytest.mark.anyio
async def test_a_stream_says_it_in_its_last_event(api: Any) -> None:
    api.environments.build = api.build(reused=False)
    reply = await api.client.post(URL, json={}, headers={**await api.bearer(), "Accept": "text/event-stream"})
    assert json.loads(reply.text.split("event: ready\ndata: ")[1])["cold"] == "environment"


@pytest.mark.anyio
async def test_a_poll_says_it_once_the_setup_has_ended(api: Any) -> None:
    headers = await api.bearer()
    api.environments.build = build = api.build(ended=False)
    asked = await api.client.post(URL, json={}, headers={**headers, "Prefer": "respond-async"})
    pending = await api.client.get(asked.headers["location"], headers=headers)
    assert "kodou-cold" not in pending.headers
    build.end.set()
    await anyio.wait_all_tasks_blocked()
    done = await api.client.get(asked.headers["location"], headers=headers)
    assert (done.headers["kodou-cold"], done.json()["cold"]) == ("session", "session")
    assert list(phases(done)) == ["auth", "start"]
