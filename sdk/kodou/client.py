"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from os import getpid
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from kodou import protocol
from kodou.connection import LIMITS, SILENCE_S, Address, Incoming, ours, plain_headers, streams, timeouts
from kodou.evaluation import Talk
from kodou.messages import Progress, Request, Response, Setup
from kodou.multipart import Form
from kodou.retries import RETRIES, Retries
from kodou.session import Session
from kodou.stream import Reader, SetupReader, Told, is_result

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")


class Client:
    """A server and a key on it. Threads and forks may share one; as a context manager it lets its connections go at the end.

    Args:    url, token: default to the environment's `KODOU_URL` and `KODOU_TOKEN`.
             silence_s: seconds without a byte from the server after which it counts as gone.
             retries: how often a request that the server turned away before it ran anything is sent again, after the
             pause that the server asks for; 0: never.
             transport: in place of the network, for tests.
    Raises:  NotConfigured: no token, or an address that is none.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        silence_s: float = SILENCE_S,
        retries: int = RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._address = Address(url, token)
        self._retries = retries
        self._options: dict[str, Any] = {"timeout": timeouts(silence_s), "transport": transport}
        self._connect()

    def _connect(self) -> None:
        self._http = httpx.Client(
            headers=self._address.headers, limits=LIMITS, trust_env=not self._address.local, **self._options
        )
        self._process = getpid()  # last: another thread of a fork goes by it

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
                 options: `resources`, `network`, `env`, `ttl` (seconds), `refresh`, or `lock` in place of dependencies
                 and version: see the protocol.
        Raises:  DependencyUnresolvable, BuildFailed, UnknownVersion, InvalidRequest, …: see `kodou.errors`.
        """
        request = protocol.setup_request(dependencies, version, options=options, stream=progress is not None)
        setup = protocol.read_setup(self.send(request)) if progress is None else self._set_up(request, progress)
        return Session(self, setup.session_id, setup.environment, setup.expires)

    def _set_up(self, request: Request, progress: Callable[[Progress], object]) -> Setup:
        for told in self.stream(request, SetupReader()):
            if isinstance(told, Setup):
                return told
            progress(told)  # type: ignore[arg-type]
        raise AssertionError  # a stream ends in its result, or raises

    def session(self, id: str) -> Session:
        """Take up a session by its id. Nothing is asked of the server until it is used."""
        return Session(self, id)

    def lock(self, environment_id: str) -> Any:
        """The exact packages of an environment, by hash: as the option `lock` of a setup it is made again, anywhere."""
        return protocol.read_environment(self.send(protocol.environment_request(environment_id)))["lock"]

    def send(self, request: Request) -> Response:
        """One request of `kodou.protocol`. Raises `Unreachable`."""
        retries = Retries(self._retries)
        while True:
            with closing(self._sent(request)) as raw:
                response = self._read(raw)
            pause_s = retries.pause_s(request, response)
            if pause_s is None:
                return response
            time.sleep(pause_s)

    def stream(self, request: Request, reader: Reader) -> Iterator[Told]:
        """What a streamed response tells, as it comes; its result is the last. Raises `Unreachable`, and as `reader`."""
        retries = Retries(self._retries)
        while True:
            with closing(self._sent(request)) as raw:
                if streams(raw):
                    yield from self._followed(raw, reader)
                    return
                response = self._read(raw)
            pause_s = retries.pause_s(request, response)
            if pause_s is None:
                yield reader.whole(response)
                return
            time.sleep(pause_s)

    def run(self, talk: Talk[T]) -> T:
        """Send what a conversation of `kodou.evaluation` asks for, to its end. Raises `Unreachable`, and as that does."""
        with closing(talk):
            try:
                request = next(talk)
                while True:
                    request = talk.send(self.send(request))
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]

    def _sent(self, request: Request) -> httpx.Response:
        """The response, of which the head has come."""
        if self._process != getpid():
            self._connect()  # a fork's connections are its parent's, who would get its replies
        with ours(self._address.url):
            return self._http.send(self._built(request), stream=True)

    def _read(self, response: httpx.Response) -> Response:
        incoming = Incoming(response)
        with ours(self._address.url):
            for chunk in response.iter_bytes():
                incoming.feed(chunk)
        return incoming.whole()

    def _followed(self, response: httpx.Response, reader: Reader) -> Iterator[Told]:
        headers = plain_headers(response)
        with ours(self._address.url):
            for chunk in response.iter_bytes():
                for told in reader.feed(chunk, headers):
                    yield told
                    if is_result(told):
                        return
        raise reader.ended()

    def _built(self, request: Request) -> httpx.Request:
        body = request.body
        return self._http.build_request(
            request.method,
            self._address.url_of(request),
            content=iter(body) if isinstance(body, Form) else body,
            headers=request.headers,
        )

    def __repr__(self) -> str:
        return f"<Client of {self._address.url}>"

    def close(self) -> None:
        """Let go of the connections; sessions live on. May be called twice."""
        # A fork may have none yet, and a thread of its parent that it lacks may have held the lock on those.
        if self._process == getpid():
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
