"""What every HTTP request goes through, as one plain ASGI wrapper: request id, limits on the body, errors, metrics, log.

Plain ASGI because Starlette's `BaseHTTPMiddleware` costs a task per request and hides the client's disconnect.
"""

import logging
import re
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from itertools import count
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import telemetry
from orchestrator.api import problems
from orchestrator.errors import Defect, KodouError, PayloadTooLarge
from orchestrator.settings import Settings

CLIENT_CLOSED_REQUEST = 499  # in metrics only; nobody is left to read it
_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_STORE = (b"cache-control", b"no-store")
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_UNMATCHED = "unmatched"
# A line for each good call would cost more than the call: these are told at `debug` when all is well.
_QUIET = frozenset({"/environment/{language}/call", "/healthz", "/readyz", "/metrics"})


def request_id(scope: Scope) -> str:
    """The id that `Edge` gave this request; empty before it."""
    return str(scope.get("state", {}).get("request_id", ""))


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The request's headers by name; of several of one name, the last. Made once, by `Edge`."""
    headers: dict[bytes, bytes] = scope["state"]["headers"]
    return headers


class Edge:
    """Gives each request an id, bounds its body, and turns what is raised into a problem.

    The time that a request takes to arrive is bounded below, in `connection.py`.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_body_bytes = settings.max_body_bytes
        # Not secret, only unlike those of other processes: a counter costs a tenth of a UUID.
        self._prefix = secrets.token_hex(6)
        self._numbers = count(1)
        self._root_logger = logging.getLogger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        headers = dict(scope["headers"])
        id = self._request_id(headers)
        scope.setdefault("state", {}).update(request_id=id, headers=headers)
        telemetry.REQUEST_ID.set(id)
        reply = _Reply(send, id)
        status = CLIENT_CLOSED_REQUEST
        try:
            await self._app(scope, _Body(receive, headers, self._max_body_bytes).receive, reply.send)
            status = reply.status or CLIENT_CLOSED_REQUEST
        except ClientDisconnect:
            pass
        except KodouError as exc:
            status = await reply.refuse(exc)
        except Exception as exc:
            telemetry.log.exception("unforeseen", route=_route(scope))
            status = await reply.refuse(Defect(str(exc)))
        finally:
            self._record(scope, status, perf_counter() - started)

    def _request_id(self, headers: Mapping[bytes, bytes]) -> str:
        shown = headers.get(b"x-request-id")
        if shown is not None and _SANE_REQUEST_ID.fullmatch(shown):
            return shown.decode("ascii")
        return f"{self._prefix}{next(self._numbers):08x}"

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        telemetry.count_request(method, route, status)
        level = logging.DEBUG if status == HTTPStatus.OK and route in _QUIET else logging.INFO
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
            )


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
            message["headers"] = headers = list(message["headers"])
            if not any(header[0] == b"cache-control" for header in headers):
                headers.append(_NO_STORE)
            headers.append(_NO_SNIFFING)
            headers.append((b"x-request-id", self._id.encode("ascii")))
        await self._send(message)

    async def refuse(self, error: KodouError) -> int:
        """Send the problem. Raises `error` where a reply has begun: the connection is closed, the client sees it cut."""
        if self.status:
            raise error
        status, headers, body = problems.render(error, self._id)
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
        return status


class _Body:
    """The request's body on its way in: counted as it arrives, whatever its headers say."""

    __slots__ = ("_left", "_limit", "_receive")

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._left = limit
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            self._left = -1

    async def receive(self) -> Message:
        if self._left >= 0:
            message = await self._receive()
            self._left -= len(message.get("body", b""))
        if self._left < 0:
            msg = f"the body is over the limit of {self._limit} bytes"
            raise PayloadTooLarge(msg, limit_bytes=self._limit)
        return message


def _route(scope: Scope) -> str:
    """The template, never the path: a metric label per path would be without bound."""
    return getattr(scope.get("route") or scope.get("endpoint"), "path", _UNMATCHED)
