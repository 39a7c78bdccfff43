"""Nothing on a request's way blocks the event loop, the one or two `stat` that revocation at once costs apart."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from runner import frames

from orchestrator.auth.keys import Credentials, Keys
from orchestrator.auth.tokens import Tokens
from orchestrator.errors import SessionExpired
from orchestrator.sandboxes.work import Work
from orchestrator.sessions.manager import SessionManager
from orchestrator.sessions.stopping import stop_session
from orchestrator.settings import Settings
from orchestrator.store.sql import open_store
from tests.unit.sessions.conftest import ENVIRONMENT, OPTIONS
from tests.unit.sessions.fakes import FakeBackend, image


@pytest.fixture
def guard() -> Iterator[BlockBuster]:
    made = BlockBuster()
    made.functions["os.stat"].can_block_in("auth/generation.py", "current").can_block_in("auth/tokens.py", "_present")
    yield made
    made.deactivate()


def test_a_session_s_whole_life_never_blocks_the_loop(tmp_path: Path, guard: BlockBuster) -> None:
    settings = Settings(data_dir=tmp_path, reap_interval_s=0.01)
    store, backend, tokens = open_store(settings), FakeBackend(), Tokens.load(tmp_path)
    keys = Keys(store, tokens, tmp_path)
    manager = SessionManager(settings, store, backend, tokens)

    async def life() -> None:
        guard.activate()
        new = await keys.create("alice", expires_in=timedelta(days=1))
        alice = await keys.authenticate(Credentials(token=new.api_id))
        await manager.start()
        opened, other = [await manager.open(alice, ENVIRONMENT, image("x"), OPTIONS) for _ in range(2)]
        for sandbox in list(backend.running):
            assert keys.cached(new.api_id) == alice
            await manager.call(opened.sessionid, alice, Work(frames.CALL, b"{}"), timeout_s=1)
            backend.kill(sandbox)
        await manager._reaper.reap()
        await manager._reaper.purge()
        await manager._reaper.sweep_run_dir()
        await stop_session(store, backend, tmp_path, other.session.id)
        with pytest.raises(SessionExpired):
            await manager.call(other.sessionid, alice, Work(frames.CALL, b"{}"), timeout_s=1)
        assert len(await manager.list("alice")) == 1
        await manager.close(opened.sessionid, alice)
        await keys.revoke(new.key.id)
        await manager.drain(1)
        await manager.aclose()
        await store.close()

    asyncio.run(life())
    assert backend.sandboxes == {}
