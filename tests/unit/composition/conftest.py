"""Compositions over sessions whose runners are the real one's code, in the test's own process."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from runner import frames
from runner.calls import Calls, Limits
from runner.place import Place

from orchestrator.api.spool import Spool
from orchestrator.auth.keys import Principal
from orchestrator.auth.limits import Limits as Gates
from orchestrator.composition import exact
from orchestrator.composition.calling import Asked, Calling
from orchestrator.composition.extra import ExtraSessions
from orchestrator.composition.plan import plan
from orchestrator.composition.run import Composition
from orchestrator.errors import KodouError
from orchestrator.records import Environment, EnvironmentState, Resources, Session, SessionState
from orchestrator.sandboxes.content import Whole
from orchestrator.sandboxes.replies import Reply, Typed, read_file_head, read_in_form, read_reply
from orchestrator.sandboxes.work import File, Work
from orchestrator.sessions.background import Background
from orchestrator.sessions.manager import CallOutcome, Opened, SessionOptions
from orchestrator.settings import Settings
from orchestrator.store.memory import MemoryStore

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ADA = Principal("key", "ada", frozenset({"call"}))
MAX_PARALLEL = 8
MAX_STAGES = 100
MAX_OUTPUT_BYTES = 1000
LIMITS = Limits(
    max_reply_bytes=1 << 26,
    max_content_bytes=1 << 26,
    max_items=1 << 20,
    max_references=10,
    max_reference_bytes=1 << 20,
)


class Silent:
    """Nothing is captured of what the code under test prints."""

    def take(self) -> dict[str, object]:
        return {}


@dataclass
class Live:
    record: Session


@dataclass
class Sessions:
    """With the signatures of `SessionManager`."""

    runners: dict[str, Calls] = field(default_factory=dict)
    asked: list[tuple[str, Work]] = field(default_factory=list)
    timeouts_s: list[float] = field(default_factory=list)
    opened: list[SessionOptions] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    before_call: Callable[[str], Any] | None = None
    most: int = 100
    full: KodouError | None = None
    closing: asyncio.Event | None = None  # when it may go on

    def add(self, sessionid: str) -> str:
        self.runners[sessionid] = Calls(Silent(), LIMITS, Place(), first=True)  # type: ignore[arg-type]
        return sessionid

    def cached(self, sessionid: str, principal: Principal) -> Live:
        resources = Resources(512, 1.0, 128, 256)
        return Live(
            Session(
                id=sessionid, owner="ada", key_id="key", environment_id="e", resources=resources, network="none",
                env={"A": "b"}, ttl_s=3600, state=SessionState.READY, reason="", since=NOW, created_at=NOW,
                last_used_at=NOW, expires_at=NOW + timedelta(hours=1),
            )
        )  # fmt: skip

    async def open(self, principal: Principal, environment: Environment, image: str, options: SessionOptions) -> Opened:
        await asyncio.sleep(0)
        if len(self.opened) >= self.most and self.full is not None:
            raise self.full
        self.opened.append(options)
        sessionid = self.add(f"extra-{len(self.opened)}")
        return Opened(self.cached(sessionid, principal).record, sessionid, warm=False)

    async def close(self, sessionid: str, principal: Principal) -> None:
        await asyncio.sleep(0)
        if self.closing is not None:
            await self.closing.wait()
        self.closed.append(sessionid)
        del self.runners[sessionid]

    async def call(
        self,
        sessionid: str,
        principal: Principal,
        work: Work,
        *,
        timeout_s: float,
        until: float | None = None,
        events: object = None,
    ) -> CallOutcome:
        self.asked.append((sessionid, work))
        self.timeouts_s.append(timeout_s)
        await asyncio.sleep(0)
        told = await self.before_call(sessionid) if self.before_call is not None else None
        reply = told or _reply(self.runners[sessionid], work)
        return CallOutcome(reply, False, 0.0, 0.0, 0.001)


def _reply(runner: Calls, work: Work) -> Reply:
    extra = work.envelope() + b"".join(_bytes(file) for file in work.files)
    with patch("runner.processes.running", return_value=None):  # else those of the test are ended after a failure
        kind, body, pieces = runner.answer(frames.Frame(work.kind, work.flags, 1, work.body, extra))
    extra = b"".join(pieces)
    if kind == frames.CONTENT:
        return read_in_form(body, Whole(extra), work.forms)
    if not extra:
        return read_reply(kind, body)
    (length,) = frames.ENVELOPE.unpack_from(extra)
    begin = frames.ENVELOPE.size + length
    files = read_file_head(extra[frames.ENVELOPE.size : begin], len(extra) - begin)
    return Typed(body, files, Whole(extra[begin:]))


def _bytes(file: File) -> bytes:
    if isinstance(file.source, bytes):
        return file.source
    file.source.seek(0)
    return file.source.read(file.size)


class Images:
    async def find(self, environment_id: str) -> str:
        return environment_id


ENVIRONMENT = Environment(
    id="e", language="python", version="3.12.4", packages={}, lock="", backend="fake", image_ref="ref", size_bytes=1,
    state=EnvironmentState.READY, reason="", since=NOW, created_at=NOW, last_used_at=NOW,
)  # fmt: skip


class World:
    """Sessions `a`, `b` and `c` of one owner, and compositions over them."""

    def __init__(self, directory: Path = Path("/none")) -> None:
        """`directory`: where large files go; small ones need none."""
        self.sessions = Sessions()
        settings = Settings(data_dir=directory)
        self.spool = Spool(settings)
        self.setups = Gates(settings).setups
        self.background = Background()
        self.waits = True  # until the sandboxes are closed
        self.store = MemoryStore()
        for sessionid in "abc":
            self.sessions.add(sessionid)

    async def compose(
        self,
        request: dict[str, Any],
        *,
        forms: tuple[str, ...] = (),
        files: tuple[File, ...] = (),
        timeout_s: float = 20.0,
        max_values: int = 1 << 20,
    ) -> CallOutcome:
        """What a composition that has to be cut comes to; `a` is the session where none is named. What it leaves to be
        done is done then."""
        if await self.store.get(Environment, "e") is None:
            await self.store.add(ENVIRONMENT)
        cut = plan(exact.loads(exact.dumps(request)), lambda: "a", max_parallel=MAX_PARALLEL, max_stages=MAX_STAGES)
        assert cut is not None
        extra = ExtraSessions(
            self.sessions,  # type: ignore[arg-type]
            self.store,
            Images(),  # type: ignore[arg-type]
            ADA,
            setups=self.setups,
            background=self.background,
        )
        calling = Calling(self.sessions, Asked(ADA, timeout_s, forms, 0, files))  # type: ignore[arg-type]
        made = Composition(cut, calling, extra, self.spool, max_output_bytes=MAX_OUTPUT_BYTES, max_values=max_values)
        try:
            return await made.run()
        finally:
            if self.waits:
                await self.background.finished(10)

    async def value(self, request: dict[str, Any]) -> Any:
        """The value of one that comes to one, as Python reads it."""
        reply = (await self.compose(request)).reply
        members = json.loads(reply.body)  # type: ignore[union-attr]
        assert members["error"] is False, members
        return members["value"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
