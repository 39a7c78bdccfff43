"""Where the server is and how it is spoken to: what both clients do alike around httpx."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import httpx

from kodou import multipart
from kodou.errors import BadReply, NotConfigured, Unreachable
from kodou.messages import EVENT_STREAM, Request, Response
from kodou.multipart import FormReader

DEFAULT_URL = "http://127.0.0.1:8000"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
CONNECT_S = 10.0
# Longest silence that is waited for: a setup without progress is silent until its environment is built.
SILENCE_S = 900.0
# None on connections: with limits, requests beyond them wait for a connection of another, each looks through all that wait,
# and the pool closes some that are in use (httpcore 1.0.9). A thread has one at most, and calls of tasks wait their turn before.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None)


class Address:
    """A server's address and a token; both default to the environment's `KODOU_URL` and `KODOU_TOKEN`."""

    def __init__(self, url: str | None, token: str | None) -> None:
        self.url = (url or os.environ.get("KODOU_URL") or DEFAULT_URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            msg = f"the server's address begins with http:// or https://, not {self.url!r}"
            raise NotConfigured(msg)
        self.token = (token or os.environ.get("KODOU_TOKEN") or "").strip()
        if not self.token:
            msg = "no token: pass one or set KODOU_TOKEN; `kodou keys create NAME` makes one on the server"
            raise NotConfigured(msg)
        if not (self.token.isascii() and self.token.isprintable()):
            msg = "the token holds line ends or other characters that are not printable ASCII"  # and is not shown
            raise NotConfigured(msg)

    @property
    def local(self) -> bool:
        """This machine: no proxy of the environment stands before it."""
        try:
            return httpx.URL(self.url).host in LOOPBACK
        except httpx.InvalidURL:
            return False  # told when it is used

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def url_of(self, request: Request) -> str:
        return self.url + request.path


def timeouts(silence_s: float) -> httpx.Timeout:
    return httpx.Timeout(silence_s, connect=CONNECT_S)


class Incoming:
    """A response whose body is being read; what is read is held once. Raises BadReply."""

    def __init__(self, response: httpx.Response) -> None:
        self._status, self._headers = response.status_code, plain_headers(response)
        content_type = self._headers.get("content-type", "")
        self._form = FormReader(content_type) if content_type.startswith(multipart.MEDIA_TYPE) else None
        self._body = BytesIO()

    def feed(self, chunk: bytes) -> None:
        if self._form is None:
            self._body.write(chunk)
        else:
            self._form.feed(chunk)

    def whole(self) -> Response:
        """The response without httpx, once all its bytes have come."""
        if self._form is None:
            return Response(self._status, self._headers, self._body.getvalue())
        files = self._form.parts()
        reply = files.pop("reply", None)
        if reply is None:
            msg = "the server's reply has no part 'reply'"
            raise BadReply(msg, status=self._status)
        return Response(self._status, self._headers, reply.getvalue(), files)


def plain_headers(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): text for name, text in response.headers.items()}


def streams(response: httpx.Response) -> bool:
    """The server took up the offer of a stream; what it refuses at once is an ordinary reply."""
    return str(response.headers.get("content-type", "")).startswith(EVENT_STREAM)


@contextmanager
def ours(url: str) -> Iterator[None]:
    """Turn httpx's errors into ours."""
    try:
        yield
    except (httpx.TransportError, httpx.DecodingError, httpx.TooManyRedirects) as exc:
        msg = f"no answer from {url}: {exc or type(exc).__name__}"
        raise Unreachable(msg) from exc
    except httpx.InvalidURL as exc:
        msg = f"{url} is not an address: {exc}"
        raise NotConfigured(msg) from exc
