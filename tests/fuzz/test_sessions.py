"""Any order of what clients, keys, runners and servers may do, on real sandboxes, against a model: what each session holds.

`tests/unit/sessions/test_model.py` does the same with an engine that is played, faster and with more ways to fail.
"""

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from runner import frames

from orchestrator.auth.keys import Credentials, Keys, Principal
from orchestrator.auth.tokens import Tokens
from orchestrator.errors import RateLimited, SessionExpired, SessionNotFound, Unauthorized
from orchestrator.records import Environment, EnvironmentState
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend
from orchestrator.sandboxes.replies import Raised, TimedOut, Value, WorkerDied
from orchestrator.sandboxes.work import Work
from orchestrator.sessions.manager import CallOutcome, SessionManager, SessionOptions
from orchestrator.store.sql import open_store
from tests.bubblewrap_fixtures import BubblewrapData
from tests.fuzz.conftest import fuzz_seconds, is_long
from tests.sandbox_calls import RESOURCES

pytestmark = pytest.mark.bubblewrap

LIMIT = 3  # live sessions of one owner
OWNERS = ("ada", "bob")
CALL_S = 120.0
TIMEOUT_S = 0.2
_EXAMPLES = 8
_STEPS = 25
_NOW = datetime.now(UTC)


@dataclass
class Held:
    """What the model knows of one session."""

    owner: str
    id: str
    mark: str | None = None  # what its interpreter was told to remember
    killed: bool = False  # its sandbox ended and nobody has called since
    end: type[Exception] | None = None  # how its owner hears that it is over


@dataclass
class Shown:
    """An owner's key that is good now."""

    id: str
    api_id: str
    revoked: list[str] = field(default_factory=list)


class Sessions(RuleBasedStateMachine):
    opened: Bundle[str] = Bundle("opened")

    def __init__(self, data: BubblewrapData) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.data = data
        self.settings = data.settings.model_copy(
            update={"reap_interval_s": 3600.0, "max_sessions_per_owner": LIMIT, "keep_sessions": True}
        )
        self.held: dict[str, Held] = {}
        self.store = open_store(self.settings)
        self.tokens = Tokens.load(self.settings.data_dir)
        self.keys = Keys(self.store, self.tokens, self.settings.data_dir)
        self.shown: dict[str, Shown] = {}
        self._run(self._begin())
        for owner in OWNERS:
            self._new_key(owner)

    # --- what clients do ---

    @initialize(target=opened)
    def open_one_for_each(self) -> Any:
        return multiple(*map(self._open, OWNERS))

    @rule(target=opened, owner=st.sampled_from(OWNERS))
    def open(self, owner: str) -> Any:
        return self._open(owner) or multiple()

    @rule(token=opened, mark=st.text("abc", min_size=1, max_size=3))
    def remember(self, token: str, mark: str) -> None:
        if not self._refused(token, self.held[token].owner):
            self._remember(token, mark)

    @rule(token=opened)
    def call_as_another(self, token: str) -> None:
        assert self._refused(token, OWNERS[1 - OWNERS.index(self.held[token].owner)])

    @rule(token=opened)
    def raise_an_error(self, token: str) -> None:
        if not self._refused(token, self.held[token].owner):
            assert isinstance(self._called(token, "int", "x").reply, Raised)

    @rule(token=opened)
    def run_into_the_timeout(self, token: str) -> None:
        if not self._refused(token, self.held[token].owner):
            assert self._called(token, "time.sleep", 60, timeout_s=TIMEOUT_S).reply == TimedOut()
            self.held[token].mark = None

    @rule(token=opened)
    def end_the_interpreter(self, token: str) -> None:
        if not self._refused(token, self.held[token].owner):
            assert self._called(token, "os._exit", 7).reply == WorkerDied(7, None)
            self.held[token].mark = None

    @rule(token=consumes(opened))
    def close(self, token: str) -> None:
        held = self.held[token]
        self._run(self.manager.close(token, self._principal(held.owner)))
        held.end = held.end or SessionNotFound

    @rule(token=opened)
    def close_as_another(self, token: str) -> None:
        other = self._principal(OWNERS[1 - OWNERS.index(self.held[token].owner)])
        with pytest.raises(SessionNotFound):
            self._run(self.manager.close(token, other))

    @rule(owner=st.sampled_from(OWNERS))
    def revoke(self, owner: str) -> None:
        """The key is over at once; the owner's sessions are there for another key of theirs."""
        shown = self.shown[owner]
        self._run(self.keys.revoke(shown.id))
        with pytest.raises(Unauthorized):
            self._run(self.keys.authenticate(Credentials(token=shown.api_id)))
        self._new_key(owner)

    # --- what goes wrong ---

    @rule(token=opened)
    def kill_the_sandbox(self, token: str) -> None:
        held = self.held[token]
        if held.killed:
            return
        for sandbox in self._run(self.backend.owned({"io.kodou.session": held.id})):
            os.kill(int(sandbox.data["pid"]), signal.SIGKILL)
            held.mark, held.killed = None, True
        self._until_noticed(held)

    @rule(token=opened)
    def idle(self, token: str) -> None:
        live = self.manager._registry.get(self.held[token].id)
        if live is not None:
            live.last_used -= self.options.ttl_s
            self._run(self.manager._reaper.reap())
            self.held[token].end = self.held[token].end or SessionExpired

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        for held in self.held.values():
            if held.killed:  # the next server finds no sandbox to take up
                held.end = held.end or SessionExpired
        self._run(self._crash() if crash else self._let_go())
        self._run(self._begin())

    # --- what must hold ---

    @invariant()
    def the_server_has_the_sessions_of_the_model_and_no_sandbox_more(self) -> None:
        self._run(self.manager._background.finished(10))
        for owner in OWNERS:
            listed = {record.id for record in self._run(self.manager.list(owner))}
            assert listed == {held.id for held in self._live(owner)}
        running = [found.labels["io.kodou.session"] for found in self._run(self.backend.owned({}))]
        assert len(running) == len(set(running))
        whole = {held.id for owner in OWNERS for held in self._live(owner) if not held.killed}
        assert whole <= set(running) <= whole | {held.id for held in self.held.values() if held.killed}

    @invariant()
    def each_interpreter_remembers_what_it_was_told_and_nothing_of_another(self) -> None:
        for token, held in self.held.items():
            if held.end is None and not held.killed:
                assert self._value(token, "os.environ.get", "MARK") == held.mark

    def teardown(self) -> None:
        try:
            for token, held in self.held.items():
                self._run(self.manager.close(token, self._principal(held.owner)))
            self._run(self.manager.aclose())
            assert self._run(self.backend.owned({})) == []
            assert list(self.settings.run_dir.glob("*")) == []
        finally:
            self._run(self.backend.aclose())
            self._run(self.store.close())
            self.loop.close()

    # --- means ---

    options = SessionOptions(RESOURCES, "none", {}, ttl_s=3600)

    @property
    def environment(self) -> Environment:
        return Environment(
            id=self.data.image.environment_id,
            language="python",
            version="3",
            packages={},
            lock="",
            backend="bubblewrap",
            image_ref=self.data.image.ref,
            size_bytes=1,
            state=EnvironmentState.READY,
            reason="",
            since=_NOW,
            created_at=_NOW,
            last_used_at=_NOW,
        )

    def _open(self, owner: str) -> str | None:
        principal = self._principal(owner)
        try:
            made = self._run(self.manager.open(principal, self.environment, self.data.image, self.options))
        except RateLimited:
            assert len(self._live(owner)) == LIMIT
            return None
        assert len(self._live(owner)) < LIMIT
        self.held[made.sessionid] = Held(owner, made.session.id)
        self._remember(made.sessionid, "new")
        return made.sessionid

    def _remember(self, token: str, mark: str) -> None:
        self._value(token, "os.environ.__setitem__", "MARK", mark)
        self.held[token].mark = mark

    def _called(self, token: str, namepath: str, *args: object, timeout_s: float = CALL_S) -> CallOutcome:
        held = self.held[token]
        body = json.dumps({"namepath": namepath, "args": args}).encode()
        principal = self._principal(held.owner)
        outcome: CallOutcome = self._run(
            self.manager.call(token, principal, Work(frames.CALL, body), timeout_s=timeout_s)
        )
        assert outcome.restarted == held.killed
        held.killed = False
        return outcome

    def _value(self, token: str, namepath: str, *args: object) -> Any:
        reply = self._called(token, namepath, *args).reply
        assert isinstance(reply, Value), reply
        return json.loads(reply.body)["value"]

    def _refused(self, token: str, caller: str) -> bool:
        """Whether there is nothing to call there for this caller; then it is seen that the call is refused so."""
        held = self.held[token]
        refusal = held.end if caller == held.owner else SessionNotFound
        if refusal is None:
            return False
        with pytest.raises(refusal):
            self._run(self.manager.call(token, self._principal(caller), Work(frames.CALL, b"{}"), timeout_s=CALL_S))
        return True

    def _live(self, owner: str) -> list[Held]:
        return [held for held in self.held.values() if held.owner == owner and held.end is None]

    def _principal(self, owner: str) -> Principal:
        return self._run(self.keys.authenticate(Credentials(token=self.shown[owner].api_id)))  # type: ignore[no-any-return]

    def _new_key(self, owner: str) -> None:
        new = self._run(self.keys.create(owner, scopes=["setup", "call"], expires_in=None))
        self.shown[owner] = Shown(new.key.id, new.api_id)

    def _until_noticed(self, held: Held) -> None:
        """The channel hears of its sandbox's end by itself, a moment later."""
        live = self.manager._registry.get(held.id)
        until = time.monotonic() + 60
        while live is not None and live.channel is not None and live.channel.alive() and held.killed:
            assert time.monotonic() < until
            self._run(asyncio.sleep(0.01))

    async def _begin(self) -> None:
        self.backend = BubblewrapBackend(self.settings)
        self.manager = SessionManager(self.settings, self.store, self.backend, self.tokens)
        await self.manager.start()

    async def _let_go(self) -> None:
        await self.manager.aclose()
        await self.backend.aclose()

    async def _crash(self) -> None:
        """Nothing is written, nothing is stopped: the server is gone, its connections with it."""
        self.manager._reaping.cancel()
        self.manager._claim.release()
        for live in self.manager._registry:
            if live.channel is not None:
                await live.channel.aclose()
        await self.backend.aclose()

    def _run(self, work):  # type: ignore[no-untyped-def]
        return self.loop.run_until_complete(work)


def test_sessions_are_as_the_model_has_them_whatever_happens(bubblewrap_data: BubblewrapData) -> None:
    chosen = settings(
        max_examples=_EXAMPLES,
        stateful_step_count=_STEPS,
        deadline=None,
        database=None,
        derandomize=not is_long(),
        # Examples are dear here: what fails is shown as it is.
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    until = time.monotonic() + fuzz_seconds(0)
    while True:
        run_state_machine_as_test(lambda: Sessions(bubblewrap_data), settings=chosen)
        if time.monotonic() >= until:
            return
