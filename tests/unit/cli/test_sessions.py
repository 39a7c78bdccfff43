"""`kodou sessions`, on a store of its own and a backend in memory."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.auth.generation import Generation
from orchestrator.records import Resources, Session, SessionState
from orchestrator.sandboxes.backend import Sandbox
from orchestrator.sessions.sandboxes import kept
from orchestrator.settings import Settings
from orchestrator.store.sql import open_store

Kodou = Callable[..., Any]
NOW = datetime.now(UTC)


def session(id: str, state: SessionState = SessionState.READY) -> Session:
    sandbox = Sandbox(id=f"{id}-sandbox", backend="bubblewrap", environment_id="py3.12-x", data={"pid": "1"})
    return Session(
        id=id,
        owner="me",
        key_id="k",
        environment_id="py3.12-x",
        resources=Resources(memory_mb=512, cpus=1, pids=128, disk_mb=256),
        network="none",
        env={"SECRET": "hunter2"},
        ttl_s=60,
        state=state,
        reason="",
        since=NOW,
        created_at=NOW,
        last_used_at=NOW,
        expires_at=NOW + timedelta(days=1),
        sandbox=kept(sandbox, "instance"),
    )


@pytest.fixture
def stored(own_data_dir: Path) -> Callable[..., dict[str, Session]]:
    """Adds sessions to the store; returns all that it holds."""

    def add(*sessions: Session) -> dict[str, Session]:
        async def work() -> dict[str, Session]:
            store = open_store(Settings(data_dir=own_data_dir))
            for each in sessions:
                await store.add(each)
            found = await store.list(Session)
            await store.close()
            return {each.id: each for each in found}

        return asyncio.run(work())

    return add


def test_list_shows_those_that_live_and_no_variables(kodou: Kodou, stored: Any) -> None:
    stored(session("a"), session("b", SessionState.CLOSED))
    done = kodou("sessions", "list", "--json")
    assert [(each["id"], each["state"]) for each in json.loads(done.out)] == [("a", "ready")]
    table = kodou("sessions", "list").out
    assert "512 MB" in table
    assert "hunter2" not in done.out + table


def test_stop_ends_sandbox_and_session_and_wakes_the_server(
    kodou: Kodou, stored: Any, backend: Any, own_data_dir: Path
) -> None:
    stored(session("a"), session("b"))
    before = Generation(own_data_dir).current()
    assert kodou("sessions", "stop", "a").out == "stopped a\n"
    assert [sandbox.id for sandbox in backend.stopped] == ["a-sandbox"]
    assert backend.selected == ["bubblewrap"]  # the one that started it, not what auto would take
    assert {id: each.state.value for id, each in stored().items()} == {"a": "closed", "b": "ready"}
    assert Generation(own_data_dir).current() != before


def test_stop_all_ends_all_and_again_is_success(kodou: Kodou, stored: Any, backend: Any) -> None:
    stored(session("a"), session("b"))
    assert json.loads(kodou("sessions", "stop", "--all", "--json").out) == [
        {"id": "a", "stopped": True, "detail": None},
        {"id": "b", "stopped": True, "detail": None},
    ]
    assert kodou("sessions", "stop", "--all").code == 0
    assert kodou("sessions", "stop", "a").code == 0


def test_one_that_is_unknown_does_not_keep_the_others(kodou: Kodou, stored: Any, backend: Any) -> None:
    stored(session("a"))
    done = kodou("sessions", "stop", "nope", "a")
    assert (done.code, done.out, done.err) == (1, "stopped a\n", "kodou: nope: no session has this id\n")


def test_an_engine_that_is_down_leaves_the_session_closing(kodou: Kodou, stored: Any, backend: Any) -> None:
    stored(session("a"))
    backend.down = True
    done = kodou("sessions", "stop", "a")
    assert (done.code, done.err) == (1, "kodou: a: the engine does not answer\n")
    assert stored()["a"].state is SessionState.CLOSING


@pytest.mark.parametrize("arguments", [(), ("a", "--all")])
def test_stop_wants_ids_or_all(kodou: Kodou, arguments: tuple[str, ...]) -> None:
    done = kodou("sessions", "stop", *arguments)
    assert done.code == 2
    assert "name sessions, or --all" in done.err
