"""The blocking client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx

from kodou import protocol
from kodou.connection import SILENCE_S, Address, ours, plain, streams, timeouts
from kodou.protocol import Progress, Request, Response, Setup
from kodou.session import Session
from kodou.stream import SetupReader

if TYPE_CHECKING:
    from typing import Self


class Client:
    """A server and a key on it. Threads may share one; as a context manager it lets its connections go at the end.

    Args:    url, token: default to the environment's `KODOU_URL` and `KODOU_TOKEN`.
             silence_s: seconds without a byte from the server after which it counts as gone.
             transport: in place of the network, for tests.
    Raises:  NotConfigured: no token, or an address that is none.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        silence_s: float = SILENCE_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._address = Address(url, token)
        self._http = httpx.Client(
            headers=self._address.headers,
            timeout=timeouts(silence_s),
            transport=transport,
            trust_env=not self._address.local,
        )

    def setup(
        self,
        dependencies: Iterable[str] = (),
        version: str | None = None,
        *,
        progress: Callable[[Progress], object] | None = None,
        **options: Any,
    ) -> Session:
        """A session on an environment with these dependencies, built if it never was.

        Args:    dependencies: PEP 508 strings. version: such as `"3.12"`; None: the server's default.
                 progress: called with each step of the build.
                 options: `resources`, `network`, `env`, `ttl` (seconds), `refresh`: see the protocol.
        Raises:  DependencyUnresolvable, BuildFailed, UnknownVersion, InvalidRequest, …: see `kodou.errors`.
        """
        request = protocol.setup_request(dependencies, version, options=options, stream=progress is not None)
        setup = protocol.read_setup(self.send(request)) if progress is None else self._follow(request, progress)
        return Session(self, setup.session_id, setup.environment, setup.expires)

    def session(self, id: str) -> Session:
        """Take up a session by its id. Nothing is asked of the server until it is used."""
        return Session(self, id)

    def send(self, request: Request) -> Response:
        """One request of `kodou.protocol`. Raises `Unreachable`."""
        with ours(self._address.url):
            return plain(
                self._http.request(
                    request.method, self._address.url_of(request), content=request.body, headers=request.headers
                )
            )

    def _follow(self, request: Request, progress: Callable[[Progress], object]) -> Setup:
        reader = SetupReader(progress)
        with (
            ours(self._address.url),
            self._http.stream(
                request.method, self._address.url_of(request), content=request.body, headers=request.headers
            ) as response,
        ):
            if not streams(response):
                response.read()
                return protocol.read_setup(plain(response))
            for chunk in response.iter_bytes():
                setup = reader.feed(chunk, request_id=response.headers.get("x-request-id"))
                if setup is not None:
                    return setup
        raise reader.ended()

    def close(self) -> None:
        """Let go of the connections; sessions live on. May be called twice."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
