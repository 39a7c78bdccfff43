"""What is sent again: only what the server turned away before it ran anything, and only so often."""

import time
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import kodou
import pytest
from kodou.errors import KodouError
from kodou.messages import Request, Response
from kodou.retries import Retries

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
    assert 2 <= pauses[0] <= 4
    assert 0.5 <= pauses[1] <= 1.5


@pytest.mark.anyio
async def test_a_call_that_was_not_run_is_sent_again_in_async_code(
    aenv: kodou.aio.Environment, loopback: Loopback, pauses: list[float]
) -> None:
    loopback.answers = [turned_away("rate_limited", 429)]
    assert await aenv.len(b"abc") == 3
    assert 2 <= pauses[0] <= 4


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


@pytest.mark.parametrize(
    ("after", "chance", "pause_s"),
    [("2", 0.0, 2.0), ("2", 0.5, 3.0), ("2", 1.0, 4.0), ("0", 0.5, 0.5), ("30", 1.0, 60.0)],
)
def test_those_turned_away_together_come_back_spread(after: str, chance: float, pause_s: float) -> None:
    """Never before the server asked for it."""
    given: Callable[[], float] = lambda: chance  # noqa: E731
    response = Response(503, {"retry-after": after}, b'{"error":true,"code":"rate_limited"}')
    assert Retries(1, given).pause_s(Request("POST", "/call"), response) == pause_s
