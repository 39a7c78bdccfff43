"""What is asked of an engine that does not do it at once."""

from collections.abc import Iterable
from typing import Any, cast

import docker.errors
import pytest
import requests
from docker import APIClient

from orchestrator.sandboxes.docker import verbs


def answer(status: int) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("refused", response=response, explanation="unable to freeze: unknown")


class BusyEngine:
    """Answers one request to pause after the other as told: with a status, or by pausing. It cannot be had on demand."""

    def __init__(self, statuses: Iterable[int | None]) -> None:
        self.statuses = list(statuses)
        self.paused = False

    def pause(self, name: str) -> None:
        status = self.statuses.pop(0)
        if status is not None:
            raise answer(status)
        self.paused = True

    def inspect_container(self, name: str) -> dict[str, Any]:
        return {"State": {"Running": True, "Paused": self.paused}}


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "_PAUSE_AGAIN_S", (0.0, 0.0, 0.0))


def pause(engine: BusyEngine) -> None:
    verbs.pause_container(cast(APIClient, engine), "sandbox")


def test_a_container_that_is_slow_to_stand_still_is_paused_again() -> None:
    engine = BusyEngine([500, 500, 500, None])
    pause(engine)
    assert engine.paused
    assert engine.statuses == []


def test_one_that_never_stands_still_is_told() -> None:
    engine = BusyEngine([500] * 9)
    with pytest.raises(docker.errors.APIError, match="unable to freeze"):
        pause(engine)
    assert len(engine.statuses) == 5


def test_one_that_ended_is_told_at_once() -> None:
    engine = BusyEngine([409, None])
    with pytest.raises(docker.errors.APIError):
        pause(engine)
    assert engine.statuses == [None]


def test_one_that_is_paused_already_needs_nothing_more() -> None:
    engine = BusyEngine([500])
    engine.paused = True
    pause(engine)
    assert engine.statuses == []
