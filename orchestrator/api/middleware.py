"""What every HTTP request goes through, as one plain ASGI wrapper: request id, limits on the body, errors, headers,
metrics, log.

Plain ASGI because Starlette's `BaseHTTPMiddleware` costs a task per request and hides the client's disconnect.
"""

import asyncio
import logging
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from itertools import count
from math import inf
from time import monotonic, perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import telemetry
from orchestrator.api import hosts, parsing, problems
from orchestrator.api.problems import SECURITY_HEADERS, Header, Rendered
from orchestrator.errors import KodouError, PayloadTooLarge, RateLimited, ShuttingDown, Unavailable
from orchestrator.settings import Settings
from orchestrator.unforeseen import ours

CLIENT_CLOSED_REQUEST = 499  # in metrics only; nobody is left to read it
_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECURITY_NAMES = frozenset(name for name, _ in SECURITY_HEADERS)
_HELD_RETRY_S = 1.0
_UNMATCHED = "unmatched"
# A line for each good call would cost more than the call: these are told at `debug` when all is well.
_QUIET = frozenset({"/environment/{language}/call", "/kompose", "/healthz", "/readyz", "/metrics"})
# These refusals come in crowds, and a line for each would cost more than the refusal: of each route one in so long is told.
_CROWDED = frozenset({RateLimited.code, Unavailable.code})
TOLD_S = 1.0


def request_id(scope: Scope) -> str:
    """The id that `Edge` gave this request; empty before it."""
    return str(scope.get("state", {}).get("request_id", ""))


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The request's headers by name; several of one name are one list (RFC 9110, 5.3). Made once, by `Edge`."""
    headers: dict[bytes, bytes] = scope["state"]["headers"]
    return headers


def body_of(scope: Scope) -> "Body":
    """The request's body, for who takes it in otherwise than whole. Made by `Edge`."""
    body: Body = scope["state"]["body"]
    return body


class Edge:
    """Gives each request an id, bounds its body, and turns what is raised into a problem.

    An app has two, with one `held` between them. The time that a request takes to arrive is bounded in `connection.py`.
    """

    def __init__(self, app: ASGIApp, settings: Settings, held: "HeldBytes") -> None:
        self._app = app
        self._held = held
        self._max_body_bytes = settings.max_body_bytes
        self._check_host = hosts.checker(settings)
        # Not secret, only unlike those of other processes: a counter costs a tenth of a UUID.
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)
        self._root_logger = logging.getLogger()
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        headers = _by_name(scope["headers"])
        id = self._request_id(headers)
        body = Body(receive, headers, self._max_body_bytes, self._held)
        scope.setdefault("state", {}).update(request_id=id, headers=headers, body=body)
        telemetry.REQUEST_ID.set(id)
        reply = _Reply(send, id)
        status, code = CLIENT_CLOSED_REQUEST, ""
        try:
            self._check_head(scope, headers)
            await self._app(scope, body.receive, reply.send)
            status = reply.status or CLIENT_CLOSED_REQUEST
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            # Only uvicorn cancels requests: those that still run when the time to shut down has passed.
            status = await reply.refuse(
                ShuttingDown("the server is shutting down, and did not wait for this any longer")
            )
        except KodouError as exc:
            code = exc.code
            status = await reply.refuse(exc)
        except Exception as exc:
            status = await reply.refuse(ours(exc, _route(scope)))
        finally:
            self._held.bytes -= body.held
            self._record(scope, status, code, perf_counter() - started)

    def refusal(
        self, scope: Scope, judge: Callable[[Scope, Mapping[bytes, bytes]], KodouError | None]
    ) -> Rendered | None:
        """The reply to a request that `judge` refuses for its head; None: `__call__` is to deal with it."""
        started = perf_counter()
        headers = _by_name(scope["headers"])
        try:
            self._check_head(scope, headers)
        except KodouError:
            return None
        error = judge(scope, headers)
        if error is None:
            return None
        id = self._request_id(headers)
        status, own, body = problems.render(error, id)
        before = telemetry.REQUEST_ID.set(id)
        self._record(scope, status, error.code, perf_counter() - started)
        telemetry.REQUEST_ID.reset(before)
        return status, [*own, *SECURITY_HEADERS, (b"x-request-id", id.encode("ascii"))], body

    def _check_head(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        """Raises: MalformedRequest: what readers could read differently. MisdirectedRequest: another host is meant."""
        if len(headers) != len(scope["headers"]):
            parsing.check_repeated(scope["headers"])
        if b"transfer-encoding" in headers:
            parsing.check_transfer(headers[b"transfer-encoding"], scope["http_version"])
        self._check_host(headers.get(b"host"), scope.get("http_version"))

    def _request_id(self, headers: Mapping[bytes, bytes]) -> str:
        shown = headers.get(b"x-request-id")
        if shown is not None and _SANE_REQUEST_ID.fullmatch(shown):
            return shown.decode("ascii")
        return f"{self._prefix}{next(self._numbers):08x}"

    def _record(self, scope: Scope, status: int, code: str, seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        telemetry.count_request(method, route, status)
        further: dict[str, object] = {}
        quiet = status == HTTPStatus.OK and route in _QUIET
        if code in _CROWDED:
            alike = self._refusals.told(route, code)
            quiet = not alike
            further = {"code": code, "alike": alike}
            if "key" in scope["state"]:
                further["key"] = scope["state"]["key"]
        level = logging.DEBUG if quiet else logging.INFO
        if self._root_logger.isEnabledFor(level):
            # As it came, percent signs and all: a path may hold a line feed. Never the query: it may hold a token.
            path = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
            telemetry.log.log(
                level,
                "request",
                method=method,
                path=path.decode("ascii", "replace"),
                route=route,
                status=status,
                ms=round(seconds * 1000, 3),
                **further,
            )


class Refusals:
    """Which refusals of a crowd are told."""

    def __init__(self) -> None:
        self._untold: Counter[tuple[str, str]] = Counter()
        self._told_at: dict[tuple[str, str], float] = {}

    def told(self, route: str, code: str) -> int:
        """For how many its line stands: itself and those since the last line. 0: it gets none."""
        kind = route, code
        self._untold[kind] += 1
        now = monotonic()
        if now - self._told_at.get(kind, -inf) < TOLD_S:
            return 0
        self._told_at[kind] = now
        return self._untold.pop(kind)


class _Reply:
    """The reply on its way out: adds the headers that each carries, and remembers how far it got."""

    __slots__ = ("_id", "_send", "status")

    def __init__(self, send: Send, id: str) -> None:
        self._send = send
        self._id = id
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message["headers"]
            own = dict(headers)
            added: Sequence[Header] = SECURITY_HEADERS
            if not _SECURITY_NAMES.isdisjoint(own):  # hardly ever
                added = [header for header in SECURITY_HEADERS if header[0] not in own]
            message["headers"] = [*headers, *added, (b"x-request-id", self._id.encode("ascii"))]
        await self._send(message)

    async def refuse(self, error: KodouError) -> int:
        """Send the problem. Raises `error` where a reply has begun: the connection is closed, the client sees it cut."""
        if self.status:
            raise error
        status, headers, body = problems.render(error, self._id)
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
        return status


class HeldBytes:
    """Bodies that requests under way hold in memory, together."""

    __slots__ = ("bytes", "most")

    def __init__(self, most: int) -> None:
        self.bytes = 0
        self.most = most


class Body:
    """The request's body on its way in: counted as it arrives, whatever its headers say."""

    __slots__ = ("_all", "_arrived", "_length", "_limit", "_receive", "held")

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes], limit: int, all: HeldBytes) -> None:
        self._receive = receive
        self._limit = limit
        self._all = all
        self._arrived = 0
        self.held = 0  # of `all`, until the request ends
        length = headers.get(b"content-length", b"")
        self._length = int(length) if length.isdigit() else 0

    async def receive(self) -> Message:
        """Raises: PayloadTooLarge. Unavailable: all requests together hold as much as the server takes."""
        if self._length > self._limit:
            raise self._over()
        message = await self._receive()
        if size := len(message.get("body", b"")):
            self._arrived += size
            if self._arrived > self._limit:
                raise self._over()
            self.hold(self.held + size)
        return message

    def bound(self, limit: int) -> None:
        """Let up to `limit` bytes come, in place of `max_body_bytes`. Whoever asks for it says by `hold` what is kept."""
        self._limit = limit

    def hold(self, size: int) -> None:
        """So many bytes of it are in memory now. Raises: Unavailable."""
        self._all.bytes += size - self.held
        self.held = size
        if self._all.bytes > self._all.most:
            msg = "the server has as many request bodies in hand as it takes: try again later"
            raise Unavailable(msg, after_s=_HELD_RETRY_S)

    def _over(self) -> PayloadTooLarge:
        msg = f"the body is over the limit of {self._limit} bytes"
        return PayloadTooLarge(msg, limit_bytes=self._limit)


def _by_name(lines: Sequence[Header]) -> dict[bytes, bytes]:
    headers = dict(lines)
    if len(headers) < len(lines):  # hardly ever
        found: dict[bytes, list[bytes]] = {}
        for name, value in lines:
            found.setdefault(name, []).append(value)
        headers = {name: b", ".join(values) for name, values in found.items()}
    return headers


def _route(scope: Scope) -> str:
    """The template, never the path: a metric label per path would be without bound."""
    return getattr(scope.get("route") or scope.get("endpoint"), "path", _UNMATCHED)
