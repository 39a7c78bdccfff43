"""The app over small stand-ins for the parts behind it, with the signatures of the real ones."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from orchestrator.app import Parts, create_app
from orchestrator.auth.keys import Keys, Principal
from orchestrator.auth.limits import Limits
from orchestrator.auth.tokens import Tokens
from orchestrator.environments.builds import Built
from orchestrator.environments.lock_document import LockDocument
from orchestrator.errors import KodouError, NotFound, SessionNotFound
from orchestrator.preparation import Preparation
from orchestrator.records import Environment, EnvironmentState, Session, SessionState
from orchestrator.sandboxes.backend import BuildEvent, Image, Interpreter, Sandbox
from orchestrator.sandboxes.events import Event, Events
from orchestrator.sandboxes.replies import Reply, Value
from orchestrator.sandboxes.work import Work
from orchestrator.sessions.manager import CallOutcome, Opened, SessionOptions
from orchestrator.settings import Settings
from orchestrator.store.memory import MemoryStore

NOW = datetime(2030, 1, 1, 12, 0, 0, 999999, tzinfo=UTC)

ENVIRONMENT = Environment(
    id="py3.12-0123456789abcdef01234567",
    language="python",
    version="3.12.4",
    packages={"numpy": "2.4.6"},
    lock='lock-version = "1.0"\n',
    backend="fake",
    image_ref="ref",
    size_bytes=1234,
    state=EnvironmentState.READY,
    reason="built",
    since=NOW,
    created_at=NOW,
    last_used_at=NOW,
    uses=3,
    document='{"version":1}',
)
IMAGE = Image(ENVIRONMENT.id, "ref", 1234, NOW, {})


class FakeBuild:
    """Ends when told to, as a real one does when it is built."""

    def __init__(
        self,
        *,
        reused: bool = True,
        error: KodouError | None = None,
        ended: bool = True,
        replaced: str | None = None,
    ) -> None:
        self.end = asyncio.Event()
        if ended:
            self.end.set()
        self.turn_came: float | None = None
        self.environment_id = ENVIRONMENT.id
        self._reused = reused
        self._replaced = replaced
        self._error = error

    async def events(self) -> AsyncIterator[BuildEvent]:
        yield BuildEvent("resolve")
        yield BuildEvent("fetch", package="numpy", bytes=5, total=10)
        await self.end.wait()
        yield BuildEvent("ready")

    async def result(self) -> Built:
        await self.end.wait()
        if self._error is not None:
            raise self._error
        return Built(replace(ENVIRONMENT, id=self.environment_id), IMAGE, self._reused, self._replaced)


@dataclass
class FakeEnvironments:
    build: FakeBuild | None = None
    refusal: KodouError | None = None
    touched: list[str] = field(default_factory=list)
    asked: list[tuple[str, str | None, list[str], bool]] = field(default_factory=list)
    remade: list[LockDocument] = field(default_factory=list)
    document: str = ENVIRONMENT.document

    async def offered(self, language: str) -> list[Interpreter]:
        if language != "python":
            msg = f"no such language: {language}"
            raise NotFound(msg)
        return [Interpreter("python", "3.12.4", "base", "d" * 64, "x86_64-manylinux_2_36", {})]

    async def setup(
        self, language: str, version: str | None, dependencies: Sequence[str], *, refresh: bool = False, owner: str = ""
    ) -> FakeBuild:
        await self.offered(language)
        self.asked.append((language, version, list(dependencies), refresh))
        if self.refusal is not None:
            raise self.refusal
        self.build = self.build or FakeBuild()
        return self.build

    async def remake(self, language: str, document: LockDocument, *, owner: str = "") -> FakeBuild:
        await self.offered(language)
        self.remade.append(document)
        self.build = self.build or FakeBuild()
        return self.build

    async def get(self, language: str, environment_id: str) -> Environment:
        if environment_id != ENVIRONMENT.id:
            msg = "no such environment"
            raise NotFound(msg)
        return replace(ENVIRONMENT, document=self.document)

    async def list(self, language: str) -> list[Environment]:
        return [ENVIRONMENT]

    def touch(self, environment_id: str) -> None:
        self.touched.append(environment_id)

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


@dataclass
class FakeSessions:
    tokens: Tokens
    reply: Reply | Exception = field(default_factory=lambda: Value(b'{"error": false, "value": 12}'))
    calls: list[dict[str, Any]] = field(default_factory=list)
    opened: list[Session] = field(default_factory=list)
    options: list[SessionOptions] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)
    opening: asyncio.Event | None = None
    waiting: bool = False
    drained: bool = False
    restarted: bool = False
    echo: bool = False
    warm: bool = False
    replaced_ids: list[str] = field(default_factory=list)
    full: KodouError | None = None

    async def open(
        self, principal: Principal, environment: Environment, image: Image, options: SessionOptions
    ) -> Opened:
        if self.opening is not None:
            self.waiting = True
            await self.opening.wait()
        session = Session(
            id=f"{len(self.opened):032x}",
            owner=principal.owner,
            key_id=principal.key_id,
            environment_id=environment.id,
            resources=options.resources,
            network=options.network,
            env=options.env,
            ttl_s=options.ttl_s,
            state=SessionState.READY,
            reason="opened",
            since=NOW,
            created_at=NOW,
            last_used_at=NOW,
            expires_at=NOW + timedelta(hours=1),
        )
        self.opened.append(session)
        self.options.append(options)
        now = datetime.now(UTC)
        readable = replace(session, created_at=now, expires_at=now + timedelta(hours=1))
        return Opened(session, self.tokens.session_id(readable), self.warm)

    def replaced(self, environment_id: str) -> None:
        self.replaced_ids.append(environment_id)

    async def call(
        self,
        sessionid: str,
        principal: Principal,
        work: Work,
        *,
        timeout_s: float,
        until: float | None = None,
        events: Events | None = None,
    ) -> CallOutcome:
        self.calls.append({"sessionid": sessionid, "owner": principal.owner, "timeout_s": timeout_s, "body": work.body})
        self.work.append(work)
        for event in self.told:
            events.tell(event)  # type: ignore[union-attr]
        if isinstance(self.reply, Exception):
            raise self.reply
        reply = Value(work.body) if self.echo else self.reply
        return CallOutcome(reply, self.restarted, 0.001, 0.25 if self.restarted else 0.0, 0.002)

    def cached(self, sessionid: str, principal: Principal) -> None:
        """Nothing is: all are asked for by `find`."""

    async def find(self, sessionid: str, principal: Principal) -> SimpleNamespace:
        claims = self.tokens.read_session(sessionid, owner=principal.owner)
        return SimpleNamespace(record=next(each for each in self.opened if each.id == claims.session_id))

    def check_room(self, owner: str) -> None:
        if self.full is not None:
            raise self.full

    async def close(self, sessionid: str, principal: Principal) -> None:
        if sessionid == "unknown":
            msg = "no such session"
            raise SessionNotFound(msg)
        self.closed.append(sessionid)

    async def list(self, owner: str | None) -> list[Session]:
        return [session for session in self.opened if owner in (None, session.owner)]

    async def start(self) -> None:
        pass

    async def drain(self, deadline_s: float) -> None:
        self.drained = True

    async def aclose(self) -> None:
        pass


@dataclass
class FakeImages:
    prepared: bool = True
    broken: KodouError | None = None

    async def prepare(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def interpreters(self) -> list[Interpreter]:
        if not self.prepared:
            return []
        return [Interpreter("python", "3.12.4", "base", "d" * 64, "x86_64-manylinux_2_36", {})]

    async def list(self) -> list[Image]:
        return [IMAGE]

    async def find(self, environment_id: str) -> Image | None:
        return IMAGE


@dataclass
class FakeBackend:
    name: str = "fake"
    images: FakeImages = field(default_factory=FakeImages)
    broken: KodouError | None = None
    asked: int = 0

    async def owned(self, labels: Mapping[str, str]) -> list[Sandbox]:
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        return []

    async def aclose(self) -> None:
        pass


class Api:
    """The app over fakes, with a client and keys."""

    def __init__(self, settings: Settings, store: MemoryStore, tokens: Tokens) -> None:
        self.settings = settings
        self.store = store
        self.tokens = tokens
        self.keys = Keys(store, tokens, settings.data_dir)
        self.limits = Limits(settings)
        self.environments = FakeEnvironments()
        self.sessions = FakeSessions(tokens)
        self.backend = FakeBackend()
        self.environment = ENVIRONMENT
        self.build = FakeBuild
        self.app = create_app(
            Parts(
                settings=settings,
                store=store,
                backend=self.backend,  # type: ignore[arg-type]
                preparation=Preparation(settings, self.backend.images),  # type: ignore[arg-type]
                environments=self.environments,  # type: ignore[arg-type]
                sessions=self.sessions,  # type: ignore[arg-type]
                keys=self.keys,
                tokens=tokens,
                limits=self.limits,
            )
        )
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://kodou")

    async def token(self, owner: str = "ada", scopes: Sequence[str] = ("setup", "call")) -> str:
        return (await self.keys.create(owner, scopes=scopes)).api_id

    async def bearer(self, owner: str = "ada", scopes: Sequence[str] = ("setup", "call")) -> dict[str, str]:
        return {"Authorization": f"Bearer {await self.token(owner, scopes)}"}


MakeApi = Callable[..., Awaitable[Api]]


@pytest.fixture
async def make_api(anyio_backend: str, tmp_path: Path) -> AsyncIterator[MakeApi]:
    """Makes an `Api` with the given settings; its interpreters are prepared."""
    made: list[Api] = []

    async def make(**settings: Any) -> Api:
        settings = {"allowed_hosts": ("kodou", "x"), **settings}
        api = Api(Settings(data_dir=tmp_path, **settings), MemoryStore(), Tokens.load(tmp_path))
        made.append(api)
        return api

    yield make
    for api in made:
        await api.client.aclose()


@pytest.fixture
async def api(make_api: MakeApi) -> Api:
    return await make_api(default_version="3.12")
