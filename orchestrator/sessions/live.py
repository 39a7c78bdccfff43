"""Sessions in memory: what a call needs without asking the store."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from orchestrator.auth.tokens import LEEWAY_S, NO_SUCH_SESSION
from orchestrator.errors import KodouError, RateLimited, SessionExpired, SessionNotFound
from orchestrator.records import Session, SessionState
from orchestrator.sandboxes.backend import Sandbox
from orchestrator.sandboxes.channel import RunnerChannel
from orchestrator.sessions.machine import Effect, Event, Machine
from orchestrator.settings import Settings
from orchestrator.telemetry import SESSIONS

ENDED = (SessionState.CLOSING, SessionState.CLOSED)
UNCLOSED = tuple(state for state in SessionState if state is not SessionState.CLOSED)
ADMISSION_RETRY_S = 5.0

CLOSED_BY_OWNER = "closed"
STOPPED = "stopped"
_ENDS = {
    "idle": "the session was idle for longer than its ttl",
    "expired": "the session has reached its greatest age",
    "lost": "the session's sandbox was gone when the server came back",
    "image_gone": "the session's sandbox ended, and its environment has been pruned since",
    "shutdown": "the session ended with the server",
    STOPPED: "an operator stopped the session",
}


def ended(reason: str) -> KodouError:
    """Why a session that was the caller's takes no more calls."""
    if reason == CLOSED_BY_OWNER:
        return SessionNotFound(NO_SUCH_SESSION)
    return SessionExpired(f"{_ENDS.get(reason, 'the session has ended')}: set up a new one")


class Frozen:
    """A session's sandbox that is frozen or about to be, and the calls that want it to run (`freezing.py`)."""

    __slots__ = ("calls", "done", "door", "runs", "thawing")

    def __init__(self) -> None:
        self.runs = False  # after all: it has thawed, or cannot be frozen
        self.done = asyncio.Event()  # it is frozen, or that has failed
        self.door = asyncio.Lock()  # calls pass one by one, in their order
        self.calls = 0  # at the door
        self.thawing: asyncio.Task[None] | None = None


class LiveSession:
    """One session of this server. `record` is what the store holds; `state` goes before it."""

    __slots__ = (
        "calls",
        "channel",
        "ending",
        "expires",
        "frozen",
        "last_used",
        "machine",
        "pending",
        "record",
        "retired",
        "reviving",
        "sandbox",
        "tokens",
        "writing",
    )

    def __init__(self, record: Session, state: SessionState) -> None:
        self.record = record
        self.expires = record.expires_at.timestamp() + LEEWAY_S  # Unix time; as its token is read
        self.machine = Machine(state, record.reason)
        self.sandbox: Sandbox | None = None
        self.channel: RunnerChannel | None = None
        self.retired: list[tuple[Sandbox, RunnerChannel | None]] = []  # to be stopped
        self.pending: set[Effect] = set()  # failed, and to be tried again
        self.writing = asyncio.Lock()  # one writes the record at a time
        self.calls = 0  # running and waiting
        self.frozen: Frozen | None = None  # its sandbox, which has to thaw before the next call
        self.last_used = time.monotonic()  # not the wall clock: its jumps must not end sessions
        self.tokens: set[str] = set()
        self.reviving: asyncio.Task[RunnerChannel] | None = None
        self.ending: asyncio.Task[None] | None = None

    @property
    def state(self) -> SessionState:
        return self.machine.state

    def apply(self, event: Event) -> tuple[Effect, ...]:
        """Move; returns what is to be done. Raises `InvalidTransition`."""
        effects = self.machine.apply(event)
        if Effect.STOP_SANDBOX in effects and self.sandbox is not None:
            # Set aside at once, not when the effect is carried out: by then a fresh sandbox may be in its place.
            self.retired.append((self.sandbox, self.channel))
            self.sandbox = self.channel = self.frozen = None
        return effects

    def idle_s(self) -> float:
        """Seconds since the last call ended; 0 while one runs."""
        return 0.0 if self.calls else time.monotonic() - self.last_used

    def last_used_at(self) -> datetime:
        return datetime.now(UTC) - timedelta(seconds=self.idle_s())

    def shown(self) -> Session:
        """The record as of now."""
        return replace(
            self.record,
            state=self.state,
            reason=self.machine.reason,
            last_used_at=self.last_used_at(),
        )


class Registry:
    """All live sessions, by id and by the tokens that were found to name them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sessions: dict[str, LiveSession] = {}
        self._of_owner: Counter[str] = Counter()
        self.by_token: dict[str, LiveSession] = {}

    def __iter__(self) -> Iterator[LiveSession]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, id: str) -> LiveSession | None:
        return self._sessions.get(id)

    def check_room(self, owner: str) -> None:
        """Raises `RateLimited`: no further session of this owner can be admitted."""
        if len(self._sessions) >= self._settings.max_sessions:
            msg = f"the server has its {self._settings.max_sessions} sessions: close one, or try again later"
            raise RateLimited(msg, after_s=ADMISSION_RETRY_S)
        if self._of_owner[owner] >= self._settings.max_sessions_per_owner:
            msg = f"you have {self._settings.max_sessions_per_owner} sessions, the most there may be: close one"
            raise RateLimited(msg, after_s=ADMISSION_RETRY_S)

    def admit(self, live: LiveSession) -> None:
        """Add a session that is yet to start, so that a burst cannot pass the limits. Raises `RateLimited`."""
        self.check_room(live.record.owner)
        self.add(live)

    def add(self, live: LiveSession) -> None:
        """Add one that an earlier server admitted."""
        self._sessions[live.record.id] = live
        self._of_owner[live.record.owner] += 1
        SESSIONS.set(len(self._sessions))

    def remember(self, token: str, live: LiveSession) -> None:
        """`token` was verified, and names this session."""
        live.tokens.add(token)
        self.by_token[token] = live

    def forget_tokens(self) -> None:
        """Have all tokens verified again."""
        self.by_token.clear()
        for live in self._sessions.values():
            live.tokens.clear()

    def remove(self, live: LiveSession) -> bool:
        """Forget it. False: it was forgotten before."""
        if self._sessions.pop(live.record.id, None) is None:
            return False
        for token in live.tokens:
            self.by_token.pop(token, None)
        owner = live.record.owner
        self._of_owner[owner] -= 1
        if not self._of_owner[owner]:
            del self._of_owner[owner]
        SESSIONS.set(len(self._sessions))
        return True
