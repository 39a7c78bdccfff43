"""The Docker engine's client. The SDK blocks, so it is called in threads of its own; its errors are turned into ours here."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import docker.errors
import requests.exceptions
import urllib3.exceptions
from docker import APIClient
from docker.utils import kwargs_from_env

from orchestrator.errors import Defect, EngineUnavailable, NotFound
from orchestrator.settings import Settings
from orchestrator.telemetry import log

T = TypeVar("T")

# Threads beside those for starts and builds: for looking, stopping, removing.
SPARE_THREADS = 8
# A build, and the resolving before a source build, hold one thread each while they wait for output.
THREADS_PER_BUILD = 2

_CONFLICT = 409


class EngineRefused(Defect):
    """The engine answered that the request is wrong (4xx): ours to mend."""

    def __init__(self, detail: str, *, status: int) -> None:
        super().__init__(detail)
        self.status = status


class EngineConflict(EngineRefused):
    """What the request names is in a state, or in a use, that forbids it."""


@contextmanager
def engine_errors() -> Iterator[None]:
    """Turn what docker, requests and urllib3 raise into ours: `NotFound`, `EngineConflict`, `EngineRefused`, and
    `EngineUnavailable` for a broken connection, a timeout or the engine's own failure (5xx)."""
    try:
        yield
    except docker.errors.NotFound as exc:
        raise NotFound(_explained(exc)) from exc
    except docker.errors.APIError as exc:
        status = exc.status_code or 500
        if status >= 500:
            raise _unavailable() from exc
        refused = EngineConflict if status == _CONFLICT else EngineRefused
        raise refused(_explained(exc), status=status) from exc
    except (
        docker.errors.DockerException,
        docker.errors.StreamParseError,
        requests.exceptions.RequestException,
        requests.exceptions.RequestsWarning,
        urllib3.exceptions.HTTPError,
        urllib3.exceptions.HTTPWarning,
        urllib3.exceptions.ProxySchemeUnsupported,
        OSError,
    ) as exc:
        raise _unavailable() from exc


def _explained(exc: docker.errors.APIError) -> str:
    return f"the container engine refused: {exc.explanation}"


def _unavailable() -> EngineUnavailable:
    # The reason may hold paths of this host, so it goes to the log (`Engine.run`) and not to the caller.
    return EngineUnavailable("the container engine did not do what it was asked; try again")


class Engine:
    """One engine, reached from a pool of threads, each with a client of its own: the SDK's is not thread safe."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_s = settings.docker_timeout_s
        self._url = settings.docker_url
        self._pool = ThreadPoolExecutor(
            settings.max_starts + THREADS_PER_BUILD * settings.max_builds + SPARE_THREADS,
            thread_name_prefix="kodou-docker",
        )
        self._local = threading.local()
        self._clients: list[APIClient] = []
        self._version: str | None = None

    async def run(self, work: Callable[[APIClient], T]) -> T:
        """Do blocking `work` in a thread. If the caller is cancelled meanwhile, the work still runs to its end.
        Raises what `engine_errors` does."""
        try:
            return await self._run(work)
        except EngineUnavailable as exc:
            cause = exc.__cause__
            log.warning("engine_unavailable", error=f"{type(cause).__name__}: {cause}"[:2000])
            raise

    async def _run(self, work: Callable[[APIClient], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._do, work)

    async def run_through(self, work: Callable[[APIClient], T]) -> T:
        """As `run`, but a cancelled caller waits for the end, so that what it does next comes after the work."""
        running = asyncio.ensure_future(self.run(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()  # nobody else will ask for it
            raise

    async def ping(self, *, timeout_s: float) -> None:
        """Raises `EngineUnavailable` if no engine answers in time. Who asks says so, or takes another: it is not logged."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._run(lambda client: client.ping())
        except TimeoutError as exc:
            msg = f"no container engine answered within {timeout_s:g} s"
            raise EngineUnavailable(msg) from exc

    async def aclose(self) -> None:
        """Let go of the engine; requests under way end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for client in self._clients:
            client.close()

    def _do(self, work: Callable[[APIClient], T]) -> T:
        with engine_errors():
            return work(self._client())

    def _client(self) -> APIClient:
        client: APIClient | None = getattr(self._local, "client", None)
        if client is None:
            # The first client asks the engine for its version; the others need not.
            options: dict[str, Any] = {**kwargs_from_env(), "timeout": self._timeout_s, "version": self._version}
            if self._url is not None:
                options["base_url"] = self._url
            client = APIClient(**options)
            if client.base_url.startswith("http+docker:"):  # a Unix socket
                # There the SDK pools by whole URL, so by container, and would hold 25 idle connections in each thread.
                client.headers["Connection"] = "close"
            self._version = client.api_version
            self._local.client = client
            self._clients.append(client)
        return client
