"""Any order of what clients, runners and servers may do, against a model: a dictionary of sessions."""

import asyncio
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from orchestrator.auth.keys import Principal
from orchestrator.errors import RateLimited, SessionExpired, SessionNotFound
from orchestrator.sandboxes.replies import Reply, TimedOut, Value, Violation, WorkerDied
from orchestrator.sessions.stopping import stop_session
from orchestrator.settings import Settings
from tests.unit.sessions.conftest import ALICE, BOB, World

LIMIT = 4


class Sessions(RuleBasedStateMachine):
    opened: Bundle[str] = Bundle("opened")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.world = World(
            Settings(data_dir=Path(self.directory.name), reap_interval_s=3600, max_sessions_per_owner=LIMIT)
        )
        self.loop.run_until_complete(self.world.start())
        self.owner: dict[str, Principal] = {}  # token -> its owner
        self.ids: dict[str, str] = {}  # token -> session id
        self.end: dict[str, type[Exception]] = {}  # token -> how its owner hears that it is over

    @rule(target=opened, owner=st.sampled_from([ALICE, BOB]))
    def open(self, owner: Principal) -> str:
        # What was stopped from elsewhere has to be noticed to count no more.
        self._run(self.world.manager._reaper.reap())
        self._run(self.world.settled())
        live = [token for token, of in self.owner.items() if of is owner and token not in self.end]
        try:
            made = self._run(self.world.open(owner))
        except RateLimited:
            assert len(live) == LIMIT
            return multiple()
        assert len(live) < LIMIT
        self.owner[made.sessionid], self.ids[made.sessionid] = owner, made.session.id
        return made.sessionid

    @rule(token=opened, caller=st.sampled_from([ALICE, BOB]), body=st.binary(max_size=4))
    def call(self, token: str, caller: Principal, body: bytes) -> None:
        refusal = self.end.get(token) if caller is self.owner[token] else SessionNotFound
        if refusal is not None:
            with pytest.raises(refusal):
                self._run(self.world.call(token, caller, body))
            return
        outcome = self._run(self.world.call(token, caller, body))
        assert isinstance(outcome.reply, Value)
        sandbox, _, answer = outcome.reply.body.partition(b":")
        assert answer == body
        assert self.world.backend.sandboxes[sandbox.decode()].labels["io.kodou.session"] == self.ids[token]

    @rule(token=opened, reply=st.sampled_from([Violation("x"), TimedOut(), WorkerDied(1, None)]))
    def misbehave(self, token: str, reply: Reply) -> None:
        sandbox = self._sandbox(token)
        if sandbox is None:
            return
        self.world.backend.channels[sandbox].next_reply = reply
        assert self._run(self.world.call(token, self.owner[token])).reply == reply

    @rule(token=opened)
    def kill_runner(self, token: str) -> None:
        sandbox = self._sandbox(token)
        if sandbox is not None:
            self.world.backend.kill(sandbox)

    @rule(token=opened)
    def idle(self, token: str) -> None:
        live = self.world.manager._registry.get(self.ids[token])
        if live is not None:
            live.last_used -= 3600
            self._run(self.world.manager._reaper.reap())
            self.end[token] = SessionExpired

    @rule(token=consumes(opened))
    def close(self, token: str) -> None:
        self._run(self.world.manager.close(token, self.owner[token]))
        self.end.setdefault(token, SessionNotFound)

    @rule(token=opened)
    def close_as_another(self, token: str) -> None:
        with pytest.raises(SessionNotFound):
            self._run(self.world.manager.close(token, BOB if self.owner[token] is ALICE else ALICE))

    @rule(token=opened)
    def stop_from_another_process(self, token: str) -> None:
        world = self.world
        self._run(stop_session(world.store, world.backend, world.settings.data_dir, self.ids[token]))
        self.end.setdefault(token, SessionExpired)

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        for token in self.ids:
            if token not in self.end and self._sandbox(token) is None:
                self.end[token] = SessionExpired
        self._run(self.world.crash() if crash else self.world.manager.aclose())
        self._run(self.world.start())

    @precondition(lambda self: self.ids)
    @invariant()
    def one_sandbox_for_each_session_at_most(self) -> None:
        self._run(self.world.settled())
        sessions = [found.labels["io.kodou.session"] for found in self.world.backend.sandboxes.values()]
        assert len(sessions) == len(set(sessions))
        assert set(sessions) <= {self.ids[token] for token in self.ids if token not in self.end} | {
            live.record.id for live in self.world.manager._registry
        }

    def teardown(self) -> None:
        for token, owner in self.owner.items():
            self._run(self.world.manager.close(token, owner))
        self._run(self.world.manager.aclose())
        assert self.world.backend.sandboxes == {}
        self.loop.close()
        self.directory.cleanup()

    def _sandbox(self, token: str) -> str | None:
        """The sandbox that runs for a session now."""
        found = [sandbox.id for sandbox in self.world.backend.of_session(self.ids[token])]
        return next((id for id in found if id in self.world.backend.running), None)

    def _run(self, work):  # type: ignore[no-untyped-def]
        return self.loop.run_until_complete(work)


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=15, stateful_step_count=25)
