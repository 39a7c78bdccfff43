"""What every store promises; `memory` and `sql` are held to the same."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import anyio
import pytest

from orchestrator.records import (
    Alias,
    Environment,
    EnvironmentState,
    Key,
    Record,
    Resources,
    Session,
    SessionState,
)
from orchestrator.settings import Settings
from orchestrator.store.base import RecordExists, Store
from orchestrator.store.memory import MemoryStore
from orchestrator.store.sql import open_store

pytestmark = pytest.mark.anyio

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture(params=["memory", "sql"])
async def store(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Store]:
    async with AsyncExitStack() as stack:
        made: Store = MemoryStore() if request.param == "memory" else open_store(settings)
        stack.push_async_callback(made.close)
        yield made


@pytest.fixture
def settings(open_tmp_path: Path) -> Settings:
    return Settings(data_dir=open_tmp_path)


def key(id: str = "a" * 32, **changes: object) -> Key:
    whole = Key(id, "alice", "alice", frozenset({"setup", "call"}), "0" * 64, NOW, NOW + timedelta(days=1))
    return replace(whole, **changes)  # type: ignore[arg-type]


def environment(id: str = "py3.12-9f2c") -> Environment:
    return Environment(
        id=id,
        language="python",
        version="3.12.4",
        packages={"numpy": "2.4.6", "ünï": "1"},
        lock='lock-version = "1.0"\n',
        backend="docker",
        image_ref=None,
        size_bytes=5_000_000_000,
        state=EnvironmentState.PLANNED,
        reason="asked for",
        since=NOW,
        created_at=NOW,
        last_used_at=NOW,
    )


def session(id: str = "c" * 32, **changes: object) -> Session:
    whole = Session(
        id=id,
        owner="alice",
        key_id="a" * 32,
        environment_id="py3.12-9f2c",
        resources=Resources(memory_mb=512, cpus=0.5, pids=128, disk_mb=256),
        network="none",
        env={"B": "2", "A": "1 \N{SNOWMAN}\n"},
        ttl_s=60,
        state=SessionState.STARTING,
        reason="",
        since=NOW,
        created_at=NOW,
        last_used_at=NOW,
        expires_at=NOW + timedelta(days=7),
        sandbox={"id": "d" * 32},
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


RECORDS = [key(), key(expires_at=None, revoked_at=NOW), environment(), Alias("e" * 64, "py3.12-9f2c", NOW), session()]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
async def test_what_comes_back_is_what_was_added(store: Store, record: Record) -> None:
    await store.add(record)
    found = await store.get(type(record), record.id)
    assert found == record
    assert type(found) is type(record)


async def test_states_and_times_come_back_as_their_own_types(store: Store) -> None:
    await store.add(session())
    found = await store.get(Session, session().id)
    assert found is not None
    assert type(found.state) is SessionState
    assert type(found.resources) is Resources
    assert found.created_at.tzinfo is not None


async def test_a_time_of_another_zone_is_the_same_instant(store: Store) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    await store.add(key(created_at=elsewhere))
    found = await store.get(Key, key().id)
    assert found is not None
    assert found.created_at == NOW


async def test_unknown_is_none(store: Store) -> None:
    assert await store.get(Key, "nobody") is None


async def test_an_id_is_taken_once_per_kind(store: Store) -> None:
    await store.add(key())
    with pytest.raises(RecordExists):
        await store.add(key(name="mallory"))
    await store.add(session(id=key().id))
    found = await store.get(Key, key().id)
    assert found is not None
    assert found.name == "alice"


async def test_replace_raises_the_revision_by_one(store: Store) -> None:
    await store.add(key())
    assert await store.replace(key(name="bob"), expected=0)
    found = await store.get(Key, key().id)
    assert found is not None
    assert (found.name, found.revision) == ("bob", 1)


async def test_replace_of_a_stale_revision_changes_nothing(store: Store) -> None:
    await store.add(key())
    assert await store.replace(key(name="first"), expected=0)
    assert not await store.replace(key(name="second"), expected=0)
    found = await store.get(Key, key().id)
    assert found is not None
    assert found.name == "first"


async def test_replace_does_not_bring_back_what_was_deleted(store: Store) -> None:
    await store.add(key())
    await store.delete(Key, key().id)
    assert not await store.replace(key(), expected=0)
    assert await store.get(Key, key().id) is None


async def test_of_many_replacements_at_once_one_wins(store: Store) -> None:
    await store.add(key())
    won: list[str] = []

    async def contend(name: str) -> None:
        if await store.replace(key(name=name), expected=0):
            won.append(name)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(contend, f"n{number}")
    found = await store.get(Key, key().id)
    assert found is not None
    assert won == [found.name]


async def test_of_many_additions_at_once_one_wins(store: Store) -> None:
    refused = 0

    async def contend(name: str) -> None:
        nonlocal refused
        try:
            await store.add(key(name=name))
        except RecordExists:
            refused += 1

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(contend, f"n{number}")
    assert refused == 19


async def test_delete_twice_is_success(store: Store) -> None:
    await store.add(key())
    await store.delete(Key, key().id)
    await store.delete(Key, key().id)
    assert await store.list(Key) == []


async def test_list_is_oldest_first_and_stable(store: Store) -> None:
    for id, age_s in (("b", 1), ("a", 3), ("d", 2), ("c", 2)):
        await store.add(key(id, created_at=NOW - timedelta(seconds=age_s)))
        await store.add(Alias(id, "x", NOW - timedelta(seconds=age_s)))
    assert [found.id for found in await store.list(Key)] == ["a", "c", "d", "b"]
    assert [found.id for found in await store.list(Alias)] == ["a", "c", "d", "b"]


async def test_list_filters_by_fields_and_by_any_of_a_tuple(store: Store) -> None:
    for number, state in enumerate(SessionState):
        await store.add(session(str(number), state=state, owner="bob" if number % 2 else "alice"))
    either = await store.list(Session, state=(SessionState.READY, SessionState.CLOSED))
    assert {found.state for found in either} == {SessionState.READY, SessionState.CLOSED}
    assert [found.id for found in await store.list(Session, state=(SessionState.READY,), owner="bob")] == ["1"]
    assert await store.list(Session, state=()) == []
    assert await store.list(Session, owner="nobody") == []


async def test_list_finds_absent_values(store: Store) -> None:
    await store.add(key("a"))
    await store.add(key("b", revoked_at=NOW))
    assert [found.id for found in await store.list(Key, revoked_at=None)] == ["a"]


async def test_list_refuses_a_field_that_is_not_there(store: Store) -> None:
    with pytest.raises(ValueError, match="colour"):
        await store.list(Key, colour="blue")


async def test_nobody_changes_a_record_but_through_replace(store: Store) -> None:
    env = {"A": "1"}
    await store.add(session(env=env))
    env["A"] = "2"
    found = await store.get(Session, session().id)
    assert found is not None
    assert found.env == {"A": "1"}
    found.env["A"] = "3"  # type: ignore[index]
    again = await store.get(Session, session().id)
    assert again is not None
    assert again.env == {"A": "1"}


async def test_close_twice_is_success(store: Store) -> None:
    await store.close()
    await store.close()
