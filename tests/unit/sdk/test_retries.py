"""What is sent again: only what the server turned away before it ran anything, and only so often."""

import time
from typing import Any

import anyio
import httpx
import kodou
import pytest
from kodou.errors import KodouError

from tests.unit.sdk.loopback import Loopback


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were paused; none of them pass."""
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(time, "sleep", paused.append)
    monkeypatch.setattr(anyio, "sleep", sleep)
    return paused


def turned_away(code: str, status: int = 503, after: str | None = "2") -> httpx.Response:
    headers = {} if after is None else {"Retry-After": after}
    return httpx.Response(status, json={"error": True, "code": code, "detail": code}, headers=headers)


def test_a_call_that_was_not_run_is_sent_again(env: kodou.Environment, loopback: Loopback, pauses: list[float]) -> None:
    loopback.answers = [turned_away("rate_limited", 429), turned_away("store_busy", after="0.5")]
    assert env.len("abc") == 3
    assert pauses == [2.0, 0.5]


@pytest.mark.anyio
async def test_a_call_that_was_not_run_is_sent_again_in_async_code(
    aenv: kodou.aio.Environment, loopback: Loopback, pauses: list[float]
) -> None:
    loopback.answers = [turned_away("rate_limited", 429)]
    assert await aenv.len(b"abc") == 3
    assert pauses == [2.0]


@pytest.mark.parametrize(
    "answer",
    [
        turned_away("sandbox_lost"),  # it may have been run
        turned_away("to_come"),
        turned_away("rate_limited", 429, after=None),
        turned_away("rate_limited", 429, after="3600"),
        turned_away("rate_limited", 429, after="soon"),
        turned_away("invalid_request", 422),
    ],
)
def test_any_other_call_is_not(
    env: kodou.Environment, loopback: Loopback, pauses: list[float], answer: httpx.Response
) -> None:
    loopback.answers = [answer]
    with pytest.raises(KodouError):
        env.len("abc").value()
    assert (pauses, len(loopback.calls)) == ([], 1)


def test_a_setup_is_sent_again_whatever_was_unavailable(
    client: kodou.Client, loopback: Loopback, pauses: list[float]
) -> None:
    for options in ({}, {"progress": print}):
        loopback.answers = [turned_away("index_unavailable"), turned_away("sandbox_lost")]
        assert client.setup(**options).id.startswith("session-")  # type: ignore[arg-type]
    assert len(pauses) == 4


@pytest.mark.parametrize("retries", [0, 2])
def test_the_tries_are_counted(loopback: Loopback, pauses: list[float], retries: int) -> None:
    loopback.answers = [turned_away("shutting_down") for _ in range(9)]
    options: dict[str, Any] = {"retries": retries, "transport": loopback}
    with kodou.Client("http://host", "token", **options) as client, pytest.raises(KodouError):
        client.setup()
    assert len(pauses) == retries
