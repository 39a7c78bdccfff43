"""Where the server is and how it is spoken to: what both clients do alike around httpx."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from kodou.errors import NotConfigured, Unreachable
from kodou.messages import EVENT_STREAM, Request, Response

DEFAULT_URL = "http://127.0.0.1:8000"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
CONNECT_S = 10.0
# Longest silence that is waited for: a setup without progress is silent until its environment is built.
SILENCE_S = 900.0


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


def plain(response: httpx.Response) -> Response:
    """A response whose body has been read, without httpx."""
    return Response(response.status_code, plain_headers(response), response.content)


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
