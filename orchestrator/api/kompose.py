"""`POST /kompose`: compositions, as a bare ASGI endpoint.

One that stays in one sandbox goes to its runner as the body it came in, as a call does; any other is cut into parts.
"""

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from time import perf_counter
from types import MappingProxyType
from typing import Protocol

from msgspec import UNSET
from runner import frames
from starlette.types import Receive, Scope, Send

from orchestrator import telemetry
from orchestrator.api import call_bodies, call_replies, call_stream, kompose_bodies, multipart, parsing
from orchestrator.api.accepting import Wanted, accepted
from orchestrator.api.kompose_bodies import Composed
from orchestrator.api.kompose_credentials import ComposeCredentials
from orchestrator.api.middleware import headers_of, request_id
from orchestrator.api.parts import Parts
from orchestrator.auth.keys import Principal
from orchestrator.composition.aside import aside
from orchestrator.composition.calling import Asked, Calling
from orchestrator.composition.extra import ExtraSessions
from orchestrator.composition.files import check_all_named, check_all_sent
from orchestrator.composition.parts import Part, Plan, Spread
from orchestrator.composition.plan import plan
from orchestrator.composition.run import Composition
from orchestrator.errors import Forbidden, InvalidRequest, KodouError
from orchestrator.sandboxes.events import Events
from orchestrator.sandboxes.work import File, Work
from orchestrator.sessions.background import Background
from orchestrator.sessions.live import LiveSession
from orchestrator.sessions.manager import LAST_WORK_S, CallOutcome
from orchestrator.settings import Settings

PATH = "/kompose"

_NOWHERE: Mapping[str, int] = MappingProxyType({})


class Run(Protocol):
    """A composition that is ready to be run, and tells to `events` what there is to tell."""

    def __call__(self, *, events: Events | None) -> Coroutine[None, None, CallOutcome]: ...


class KomposeEndpoint:
    """One per app. Raises what `middleware.Edge` turns into problems."""

    path = PATH

    def __init__(self, parts: Parts, uploads: multipart.Uploads) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._sessions = parts.sessions
        self._limits = parts.limits
        self._credentials = ComposeCredentials(parts)
        self._uploads = uploads
        self._background = Background()

    async def aclose(self) -> None:
        """Returns when the sandboxes of compositions that have ended are closed."""
        await self._background.finished(LAST_WORK_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        try:
            code = await self._compose(scope, receive, send, started)
        except KodouError as exc:
            telemetry.count_call(exc.code, perf_counter() - started)
            raise
        telemetry.count_call(code, perf_counter() - started)

    async def _compose(self, scope: Scope, receive: Receive, send: Send, started: float) -> str:
        principal, session = await self._credentials.shown(scope)
        principal.require("call")
        auth_s = perf_counter() - started
        with self._limits.requests.place(principal.key_id):
            wanted = accepted(headers_of(scope).get(b"accept", b""))
            run = await self._read(scope, receive, principal, session, wanted)
            return await self._reply(scope, send, run, wanted, auth_s)

    async def _read(
        self, scope: Scope, receive: Receive, principal: Principal, session: str | None, wanted: Wanted
    ) -> Run:
        """What is to be run. All that can be refused before anything runs is refused here."""
        body, files = await self._taken(scope, receive, principal)
        session_of = partial(_session, shown=session, scope=scope)
        composed, cut = await aside(len(body), self._planned, body, files, session_of)
        timeout_s = call_bodies.timeout_seconds(composed.timeout, self._settings)
        if cut is None:
            sessionid = session_of(composed)
            await self._check_entitled(sessionid, principal)
            if composed.session is not UNSET:
                body = call_bodies.without(composed.session, body)
            work = Work(frames.COMPOSE, body, wanted.flags, wanted.forms, files)
            return partial(self._sessions.call, sessionid, principal, work, timeout_s=timeout_s)
        for part in cut.parts:
            await self._check_part(part, principal)
        await aside(len(body), check_all_sent, cut.parts, files)
        asked = Asked(principal, timeout_s, wanted.forms, wanted.flags, files, len(body))
        return self._composition(cut, asked).run

    def _planned(
        self, body: bytes, files: tuple[File, ...], session_of: Callable[[Composed], str]
    ) -> tuple[Composed, Plan | None]:
        """What the body says, and the parts it is cut into; None: one runner takes it as it came."""
        settings = self._settings
        composed = kompose_bodies.read(body, max_depth=settings.max_depth, max_values=settings.max_composed_values)
        if composed.request is None:
            return composed, None
        cut = plan(
            composed.request,
            partial(session_of, composed),
            max_parallel=settings.max_parallel,
            max_stages=settings.max_stages,
        )
        if cut is not None:
            check_all_named(composed.request, files)
        return composed, cut

    def _composition(self, cut: Plan, asked: Asked) -> Composition:
        parts = self._parts
        extra = ExtraSessions(
            parts.sessions,
            parts.store,
            parts.backend.images,
            asked.principal,
            setups=parts.limits.setups,
            background=self._background,
        )
        return Composition(
            cut,
            Calling(parts.sessions, asked),
            extra,
            self._uploads.spool.of(asked.principal.owner),
            max_output_bytes=self._settings.max_output_bytes,
            max_values=self._settings.max_composed_values,
        )

    async def _reply(self, scope: Scope, send: Send, run: Run, wanted: Wanted, auth_s: float) -> str:
        id = request_id(scope)
        if wanted.stream:
            return await call_stream.stream(send, run, wanted, request_id=id, auth_s=auth_s)
        outcome = await run(events=None)
        if wanted.protobuf:
            from orchestrator.api.protobuf import replies as protobuf_replies  # large, and seldom asked for

            return await protobuf_replies.respond(send, outcome, self._settings, request_id=id, auth_s=auth_s)
        return await call_replies.respond(send, outcome, wanted, request_id=id, auth_s=auth_s)

    async def _taken(self, scope: Scope, receive: Receive, principal: Principal) -> tuple[bytes, tuple[File, ...]]:
        """The body's JSON, and the files beside it."""
        headers = headers_of(scope)
        if parsing.media_type(headers) == multipart.MEDIA_TYPE:
            return await self._uploads.take(scope, receive, principal.owner)
        parsing.check_headers(headers)
        return await parsing.read_body(receive), ()

    async def _check_part(self, part: Part, principal: Principal) -> None:
        """Raises what `_check_entitled` does; Forbidden: sandboxes that it is spread over would reach the internet."""
        place = part.place.members()
        live = await self._check_entitled(part.session, principal, place)
        if isinstance(part, Spread) and live.record.network == "egress":
            try:
                _check_egress(principal, self._settings)
            except Forbidden as error:
                raise error.at(place) from error

    async def _check_entitled(
        self, sessionid: str, principal: Principal, place: Mapping[str, int] = _NOWHERE
    ) -> LiveSession:
        """Raises: Forbidden: another owner's session. SessionNotFound, SessionExpired, StoreBusy."""
        if (live := self._sessions.cached(sessionid, principal)) is not None:
            return live
        try:
            if self._parts.tokens.read_session(sessionid).owner != principal.owner:
                msg = "the session is another owner's"
                raise Forbidden(msg)
            return await self._sessions.find(sessionid, principal)
        except KodouError as error:
            raise error.at({name: number for name, number in place.items() if name == "pipe"}) from error


def _session(composed: Composed, shown: str | None, scope: Scope) -> str:
    """The session of stages that name none: that of the body, of `?jwt=` and of `X-Session-ID`.

    Raises: InvalidRequest: none of them names one, or they name several.
    """
    in_body = "" if composed.session is UNSET else composed.session
    in_header = headers_of(scope).get(b"x-session-id", b"").decode("latin-1")
    named = {sessionid for sessionid in (in_body, shown, in_header) if sessionid}
    if len(named) != 1:
        msg = "the body, ?jwt= and X-Session-ID name several sessions: name one"
        if not named:
            msg = "session is missing: name it in the body, in X-Session-ID, or with ?jwt=<session id>"
        raise InvalidRequest(msg, field="session")
    return named.pop()


def _check_egress(principal: Principal, settings: Settings) -> None:
    """As for a setup that asks for it. Raises: Forbidden."""
    if not settings.allow_egress:
        msg = "this server does not allow network egress"
        raise Forbidden(msg)
    principal.require("egress")
