"""The backend that settings name, or the best that there is; and what to do where there is none."""

from pathlib import Path

import pytest

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes import selection
from orchestrator.settings import Settings

pytestmark = pytest.mark.anyio
NO_ENGINE = "tcp://127.0.0.1:1"  # nobody listens there


def bubblewrap_says(monkeypatch: pytest.MonkeyPatch, problem: str | None) -> None:
    async def check(_: Settings) -> str | None:
        return problem

    monkeypatch.setattr(selection, "check_bubblewrap", check)


async def test_without_an_engine_auto_takes_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bubblewrap_says(monkeypatch, None)
    backend = await selection.select_engine(Settings(data_dir=tmp_path, docker_url=NO_ENGINE))
    assert backend.name == "bubblewrap"
    await backend.aclose()


async def test_with_neither_it_says_why_of_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bubblewrap_says(monkeypatch, "install bubblewrap")
    with pytest.raises(EngineUnavailable, match=r"no Docker engine answers.*install bubblewrap"):
        await selection.select_engine(Settings(data_dir=tmp_path, docker_url=NO_ENGINE))


async def test_one_that_is_named_is_not_replaced_by_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bubblewrap_says(monkeypatch, None)
    with pytest.raises(EngineUnavailable, match="no Docker engine answers"):
        await selection.select_engine(Settings(data_dir=tmp_path, backend="docker", docker_url=NO_ENGINE))
    bubblewrap_says(monkeypatch, "install bubblewrap")
    with pytest.raises(EngineUnavailable, match="install bubblewrap"):
        await selection.select_engine(Settings(data_dir=tmp_path, backend="bubblewrap"))


async def test_process_is_taken_where_it_is_allowed(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, backend="process", allow_process_backend=True)
    backend = await selection.select_engine(settings)
    assert backend.name == "process"
    await backend.aclose()
