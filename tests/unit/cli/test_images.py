"""`kodou images`, on a backend in memory."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records import Environment, EnvironmentState
from orchestrator.settings import Settings
from orchestrator.store.sql import open_store
from tests.unit.cli.engine import NOW

Kodou = Callable[..., Any]


def environment(backend: str, used: datetime, *, document: str = "") -> Environment:
    return Environment(
        id=f"py3.12-{backend}",
        language="python",
        version="3.12.4",
        packages={},
        lock="",
        backend=backend,
        image_ref=None,
        size_bytes=0,
        state=EnvironmentState.READY,
        reason="",
        since=used,
        created_at=used,
        last_used_at=used,
        document=document,
    )


def remember(data_dir: Path, *environments: Environment) -> None:
    async def add() -> None:
        store = open_store(Settings(data_dir=data_dir))
        for each in environments:
            await store.add(each)
        await store.close()

    data_dir.mkdir()
    asyncio.run(add())


def test_list_shows_each_image_the_one_used_last_first(kodou: Kodou, backend: Any) -> None:
    listed = json.loads(kodou("images", "list", "--json").out)
    assert [(image["environment_id"], image["size_bytes"]) for image in listed] == [
        ("py3.12-new", 200_000_000),
        ("py3.12-old", 300_000_000),
    ]
    table = kodou("images", "list", "--backend", "bubblewrap").out.splitlines()
    assert "300.0 MB" in table[2]
    assert "90 d ago" in table[2]
    assert backend.selected == ["auto", "bubblewrap"]


def test_show_tells_of_one_and_fails_for_none(kodou: Kodou, backend: Any) -> None:
    assert "kodou/env:py3.12-old" in kodou("images", "show", "py3.12-old").out
    assert json.loads(kodou("images", "show", "py3.12-old", "--json").out)["version"] == "3.12.4"
    done = kodou("images", "show", "nope")
    assert (done.code, done.err) == (1, "kodou: no image of the environment 'nope' on this backend\n")


def test_show_prints_the_lock_of_an_environment_whether_its_image_is_there_or_not(
    kodou: Kodou, own_data_dir: Path
) -> None:
    document = '{"version":1,"packages":[]}'
    remember(own_data_dir, environment("docker", NOW, document=document), environment("bubblewrap", NOW))
    assert kodou("images", "show", "py3.12-docker", "--lock").out == f"{document}\n"
    for without in ("py3.12-bubblewrap", "nope"):
        done = kodou("images", "show", without, "--lock")
        assert (done.code, done.err) == (1, f"kodou: no lock of an environment {without!r} is known here\n")


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (("--older-than", "30d"), ["py3.12-new"]),
        (("--budget", "250MB"), ["py3.12-new"]),
        (("--least-used", "1"), ["py3.12-new"]),
        (("--all",), []),
        (("--older-than", "100d"), ["py3.12-old", "py3.12-new"]),
        (("--all", "--dry-run"), ["py3.12-old", "py3.12-new"]),
    ],
)
def test_prune_removes_what_the_options_pick(
    kodou: Kodou, backend: Any, options: tuple[str, ...], left: list[str]
) -> None:
    assert kodou("images", "prune", *options, "--yes").code == 0
    assert [image.environment_id for image in backend.images.held] == left


def test_prune_tells_what_it_did(kodou: Kodou, backend: Any) -> None:
    assert kodou("images", "prune", "--older-than", "30d", "--dry-run").out == (
        "would remove: py3.12-old (300.0 MB, age)\nwould remove 300.0 MB in all\n"
    )
    (pruned,) = json.loads(kodou("images", "prune", "--older-than", "30d", "--yes", "--json").out)
    assert (pruned["environment_id"], pruned["kept"]) == ("py3.12-old", None)
    assert kodou("images", "prune", "--older-than", "30d", "--yes").out == "nothing to remove\n"


def test_prune_says_what_is_missing(kodou: Kodou, backend: Any) -> None:
    assert "--older-than" in kodou("images", "prune").err
    asked = kodou("images", "prune", "--all")
    assert asked.code == 2
    assert "--yes" in asked.err
    assert len(backend.images.held) == 2


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 2), ("\n", 2)])
def test_prune_asks_on_a_terminal(
    kodou: Kodou, backend: Any, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self, *args: object) -> str:
            return answer

    monkeypatch.setattr("sys.stdin", Terminal())
    assert kodou("images", "prune", "--all").code == 0
    assert len(backend.images.held) == left


def test_without_a_backend_the_one_that_was_used_last_is_meant(kodou: Kodou, backend: Any, own_data_dir: Path) -> None:
    remember(own_data_dir, environment("docker", NOW - timedelta(days=2)), environment("bubblewrap", NOW))
    kodou("images", "list")
    assert backend.selected == ["bubblewrap"]
