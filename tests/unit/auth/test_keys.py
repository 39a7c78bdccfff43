import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.auth import keys as keys_module
from orchestrator.auth.keys import Credentials, Keys, Principal
from orchestrator.auth.tokens import Tokens
from orchestrator.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from orchestrator.records import Key
from orchestrator.store.memory import MemoryStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def keys(store: MemoryStore, tmp_path: Path) -> Keys:
    return Keys(store, Tokens.load(tmp_path), tmp_path)


@pytest.fixture
def elsewhere(store: MemoryStore, keys: Keys, tmp_path: Path) -> Keys:
    """`kodou keys` in another process on the same data directory."""
    return Keys(store, Tokens.load(tmp_path), tmp_path)


async def test_a_new_key_s_api_id_is_its_holder(keys: Keys) -> None:
    new = await keys.create("alice", scopes={"call"})
    principal = await keys.authenticate(Credentials(token=new.api_id))
    assert principal == Principal(new.key.id, "alice", frozenset({"call"}))
    assert keys.cached(new.api_id) == principal


async def test_a_new_key_s_id_and_secret_are_its_holder_too(keys: Keys) -> None:
    new = await keys.create("laptop", owner="alice")
    principal = await keys.authenticate(Credentials(basic=(new.key.id, new.secret)))
    assert principal.owner == "alice"


async def test_the_secret_is_not_stored(keys: Keys, store: MemoryStore) -> None:
    new = await keys.create("alice")
    assert new.secret not in repr(await store.list(Key))


@pytest.mark.parametrize("name", ["", "a" * 65, "a b", "a\n", "é", "a/b", "<a>", "a:b"])
async def test_a_name_that_is_no_name_is_refused(keys: Keys, name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await keys.create(name)
    assert refused.value.field == "name"
    with pytest.raises(InvalidRequest) as refused:
        await keys.create("fine", owner=name)
    assert refused.value.field == "owner"


@pytest.mark.parametrize("scopes", [set(), {"call", "root"}, {"CALL"}])
async def test_scopes_that_are_none_are_refused(keys: Keys, scopes: set[str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await keys.create("alice", scopes=scopes)
    assert refused.value.field == "scopes"


@pytest.mark.parametrize("expires_in", [timedelta(0), timedelta(seconds=-1), timedelta.max])
async def test_an_expiry_that_is_none_is_refused(keys: Keys, expires_in: timedelta) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await keys.create("alice", expires_in=expires_in)
    assert refused.value.field == "expires_in"


async def test_a_scope_that_a_key_lacks_is_forbidden(keys: Keys) -> None:
    new = await keys.create("alice", scopes={"call"})
    principal = await keys.authenticate(Credentials(token=new.api_id))
    principal.require("call")
    with pytest.raises(Forbidden, match="setup"):
        principal.require("setup")


async def test_revoking_works_at_once_in_every_process(keys: Keys, elsewhere: Keys) -> None:
    new, other = await keys.create("alice"), await keys.create("bob")
    for made in (new, other):
        await keys.authenticate(Credentials(token=made.api_id))
    await elsewhere.revoke(new.key.id)
    assert keys.cached(new.api_id) is None
    with pytest.raises(Unauthorized, match="revoked"):
        await keys.authenticate(Credentials(token=new.api_id))
    with pytest.raises(Unauthorized, match="revoked"):
        await keys.authenticate(Credentials(basic=(new.key.id, new.secret)))
    await keys.authenticate(Credentials(token=other.api_id))
    assert keys.cached(other.api_id) is not None


async def test_a_key_revoked_while_it_is_looked_up_is_not_kept(
    keys: Keys, elsewhere: Keys, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = await keys.create("alice")
    read, go_on = asyncio.Event(), asyncio.Event()
    get = store.get

    async def slow(kind: type[Key], id: str) -> Key | None:
        found = await get(kind, id)
        read.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(store, "get", slow)
    looking = asyncio.create_task(keys.authenticate(Credentials(token=new.api_id)))
    await read.wait()
    monkeypatch.setattr(store, "get", get)
    await elsewhere.revoke(new.key.id)
    go_on.set()
    await looking  # it was before the revocation
    assert keys.cached(new.api_id) is None


async def test_revoking_twice_is_success_and_an_unknown_key_is_not_found(keys: Keys) -> None:
    new = await keys.create("alice")
    first = await keys.revoke(new.key.id)
    assert (await keys.revoke(new.key.id)).revoked_at == first.revoked_at
    with pytest.raises(NotFound):
        await keys.revoke("nobody")


async def test_expiry_is_honoured_at_once(keys: Keys, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    new = await keys.create("alice", expires_in=timedelta(hours=1))
    await keys.authenticate(Credentials(token=new.api_id))
    assert new.key.expires_at is not None
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: new.key.expires_at.timestamp())  # type: ignore[union-attr]
        assert keys.cached(new.api_id) is None
    past = replace(new.key, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert await store.replace(past, expected=0)
    with pytest.raises(Unauthorized, match="expired"):
        await keys.authenticate(Credentials(token=new.api_id))


async def test_nothing_shown_is_unauthorised_and_says_what_to_send(keys: Keys) -> None:
    with pytest.raises(Unauthorized, match="Bearer"):
        await keys.authenticate(Credentials())


async def test_wrong_secrets_and_unknown_ids_are_one_refusal(keys: Keys) -> None:
    new = await keys.create("alice")
    texts = set()
    for basic in ((new.key.id, "wrong"), ("f" * 32, new.secret), ("", ""), (new.key.id, "\ud800"), (new.key.id, "")):
        with pytest.raises(Unauthorized) as refused:
            await keys.authenticate(Credentials(basic=basic))
        texts.add(refused.value.detail)
    assert len(texts) == 1


async def test_a_token_of_a_key_that_is_gone_is_refused_as_any_other(keys: Keys, store: MemoryStore) -> None:
    new = await keys.create("alice")
    await store.delete(Key, new.key.id)
    with pytest.raises(Unauthorized) as gone:
        await keys.authenticate(Credentials(token=new.api_id))
    with pytest.raises(Unauthorized) as junk:
        await keys.authenticate(Credentials(token="junk"))
    assert gone.value.detail == junk.value.detail


async def test_the_record_decides_the_owner(keys: Keys, store: MemoryStore, tmp_path: Path) -> None:
    new = await keys.create("alice")
    forged = Tokens.load(tmp_path).api_id(replace(new.key, owner="bob"))
    with pytest.raises(Unauthorized):
        await keys.authenticate(Credentials(token=forged))


async def test_the_cache_is_bounded_and_keeps_what_is_used(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "CACHED_TOKENS", 2)
    made = [await keys.create(f"n{number}") for number in range(3)]
    for new in made[:2]:
        await keys.authenticate(Credentials(token=new.api_id))
    assert keys.cached(made[0].api_id) is not None
    await keys.authenticate(Credentials(token=made[2].api_id))
    assert [keys.cached(new.api_id) is not None for new in made] == [True, False, True]


async def test_all_keys_are_listed_oldest_first(keys: Keys) -> None:
    made = [(await keys.create(name)).key.id for name in ("c", "a", "b")]
    await keys.revoke(made[0])
    assert [key.id for key in await keys.list()] == made
