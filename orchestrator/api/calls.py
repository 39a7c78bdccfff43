"""`POST /environment/{language}/call`: the hot path, as a bare ASGI endpoint.

The body is read once. `sessionid` and `timeout` are taken out of it, and the rest goes to the runner as the bytes it came
in; so does the reply on its way back.
"""

from functools import partial
from time import perf_counter

from msgspec import UNSET
from runner import frames
from starlette.types import Receive, Scope, Send

from orchestrator import telemetry
from orchestrator.api import call_bodies, call_replies, call_stream, multipart, parsing, session_ids
from orchestrator.api.accepting import accepted
from orchestrator.api.credentials import principal_of
from orchestrator.api.middleware import headers_of, request_id
from orchestrator.api.parts import Parts
from orchestrator.api.protobuf import MEDIA_TYPE as PROTOBUF
from orchestrator.auth.keys import Principal
from orchestrator.errors import KodouError
from orchestrator.sandboxes.work import File, Work

PATH = "/environment/{language}/call"


class CallEndpoint:
    """One per app. Raises what `middleware.Edge` turns into problems."""

    path = PATH

    def __init__(self, parts: Parts) -> None:
        self._settings = parts.settings
        self._environments = parts.environments
        self._sessions = parts.sessions
        self._keys = parts.keys
        self._limits = parts.limits
        self._languages: set[str] = set()
        self.uploads = multipart.Uploads(parts.settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        try:
            code = await self._call(scope, receive, send, started)
        except KodouError as exc:
            telemetry.count_call(exc.code, perf_counter() - started)
            raise
        telemetry.count_call(code, perf_counter() - started)

    async def _call(self, scope: Scope, receive: Receive, send: Send, started: float) -> str:
        principal = await principal_of(scope, self._keys, self._limits.failures)
        scope["state"]["key"] = principal.key_id  # for the log
        principal.require("call")
        auth_s = perf_counter() - started
        self._limits.requests.enter(principal.key_id)
        try:
            return await self._admitted(scope, receive, send, principal, auth_s)
        finally:
            self._limits.requests.leave(principal.key_id)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, principal: Principal, auth_s: float) -> str:
        headers = headers_of(scope)
        if scope["query_string"]:
            parsing.check_query(scope)
        language = scope["path_params"]["language"]
        if language not in self._languages:
            await self._environments.offered(language)  # raises NotFound
            self._languages.add(language)
        wanted = accepted(headers.get(b"accept", b""))
        body, files = await self._taken(scope, receive, principal)
        told, timeout = await call_bodies.members(body, max_depth=self._settings.max_depth)
        in_body = "" if told is UNSET else told
        sessionid = session_ids.named(in_body, headers.get(b"x-session-id", b"").decode("latin-1"))
        body = call_bodies.without(in_body, body)
        timeout_s = call_bodies.timeout_seconds(timeout, self._settings)
        work = Work(frames.CALL, body, wanted.flags, wanted.forms, files)
        if wanted.stream:
            run = partial(self._sessions.call, sessionid, principal, work, timeout_s=timeout_s)
            return await call_stream.stream(send, run, wanted, request_id=request_id(scope), auth_s=auth_s)
        outcome = await self._sessions.call(sessionid, principal, work, timeout_s=timeout_s)
        if wanted.protobuf:
            from orchestrator.api.protobuf import replies as protobuf_replies  # large, and seldom asked for

            return await protobuf_replies.respond(
                send, outcome, self._settings, request_id=request_id(scope), auth_s=auth_s
            )
        return await call_replies.respond(send, outcome, wanted, request_id=request_id(scope), auth_s=auth_s)

    async def _taken(self, scope: Scope, receive: Receive, principal: Principal) -> tuple[bytes, tuple[File, ...]]:
        """The body's JSON, and the files beside it."""
        headers = headers_of(scope)
        media_type = parsing.media_type(headers)
        if media_type == multipart.MEDIA_TYPE:
            return await self.uploads.take(scope, receive, principal.owner)
        if media_type == PROTOBUF:
            from orchestrator.api.protobuf import requests as protobuf_requests

            return await protobuf_requests.take(scope, receive, self._settings)
        parsing.check_headers(headers)
        return await parsing.read_body(receive), ()
