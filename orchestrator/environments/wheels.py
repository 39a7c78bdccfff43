"""WheelStore: package files by their SHA-256, fetched once. Only this writes there; builds read."""

import asyncio
import hashlib
import os
import ssl
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote
from weakref import WeakValueDictionary

import httpx

from orchestrator.environments.lock import LockedFile
from orchestrator.errors import BuildFailed, DependencyUnresolvable, IndexUnavailable, StoreBusy
from orchestrator.packages.index import Index
from orchestrator.packages.uv import ca_bundle
from orchestrator.sandboxes.backend import BuildEvent
from orchestrator.settings import Settings
from orchestrator.unforeseen import FULL

PARALLEL_FETCHES = 8
MAX_REDIRECTS = 5
TRIES = 3
BACKOFF_S = 0.5  # doubles with each try
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_PARTS = ".parts"
_CHUNK_BYTES = 1024 * 1024
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})

Progress = Callable[[int, int | None], None]  # bytes so far, total if known


class _Transient(Exception):
    """Worth another try."""


class WheelStore:
    """Files lie at <wheels dir>/<first two digits>/<sha256>/<file name>, 0644: whoever builds may read them."""

    def __init__(self, settings: Settings, *, backoff_s: float = BACKOFF_S) -> None:
        self._settings = settings
        self._index = Index.of(settings)
        self._backoff_s = backoff_s
        self._slots = asyncio.Semaphore(PARALLEL_FETCHES)
        self._one_each: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    def path(self, file: LockedFile) -> Path:
        """Where the file lies once it is fetched. Its names were checked when the lock was parsed."""
        return self._settings.wheels_dir / file.sha256[:2] / file.sha256 / file.filename

    async def fetch(self, files: Sequence[LockedFile]) -> AsyncGenerator[BuildEvent, None]:
        """Fetch what is not there yet, at most `build_disk_mb` in all; events of phase "fetch" tell how far it is.

        Raises: IndexUnavailable: the index does not answer. DependencyUnresolvable: it no longer has a file.
                BuildFailed: a file is not what the lock says, or they are too large. StoreBusy: the disk is full.
        """
        events: asyncio.Queue[BuildEvent | None] = asyncio.Queue()
        budget = _Budget(self._settings.build_disk_mb * 1024 * 1024)
        fetching = asyncio.create_task(self._fetch_all(files, budget, events))
        fetching.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await fetching
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)

    async def sweep(self, older_than_s: float) -> None:
        """Remove files that no build asked for in `older_than_s`, and what is left of fetches that were cut off."""
        least_s = 2 * self._settings.build_timeout_s  # a build under way may hold any that is younger
        await asyncio.to_thread(_sweep, self._settings.wheels_dir, max(older_than_s, least_s))

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _fetch_all(self, files: Sequence[LockedFile], budget: "_Budget", events: asyncio.Queue) -> None:  # type: ignore[type-arg]
        tasks = [asyncio.create_task(self._fetch(file, budget, events)) for file in files]
        try:
            await asyncio.gather(*tasks)
        except OSError as exc:
            if exc.errno in FULL:
                msg = "the disk of the package store is full"
                raise StoreBusy(msg) from exc
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch(self, file: LockedFile, budget: "_Budget", events: asyncio.Queue) -> None:  # type: ignore[type-arg]
        def progress(so_far: int, total: int | None) -> None:
            events.put_nowait(BuildEvent("fetch", package=file.name, bytes=so_far, total=total))

        path = self.path(file)
        lock = self._one_each.setdefault(file.sha256, asyncio.Lock())
        async with lock, self._slots:
            if not await asyncio.to_thread(_mark_used, path):
                await self._with_tries(file, budget, progress)
            size = (await asyncio.to_thread(path.stat)).st_size
            progress(size, size)

    async def _with_tries(self, file: LockedFile, budget: "_Budget", progress: Progress) -> None:
        for left in reversed(range(TRIES)):
            try:
                return await self._download(file, budget, progress)
            except (httpx.TransportError, _Transient) as exc:
                if left == 0:
                    msg = f"the package index does not give out {file.filename}: {type(exc).__name__}"
                    raise IndexUnavailable(msg) from exc
                await asyncio.sleep(self._backoff_s * 2 ** (TRIES - 1 - left))

    async def _download(self, file: LockedFile, budget: "_Budget", progress: Progress) -> None:
        response = await self._opened(file)
        try:
            await self._keep(response, file, budget, progress)
        finally:
            await response.aclose()

    async def _opened(self, file: LockedFile) -> httpx.Response:
        """The response whose body is the file; redirects are followed to allowed hosts only."""
        client, url = await self._connected(), file.url
        for _ in range(MAX_REDIRECTS):
            if not self._index.permits(url):
                msg = f"the index sends {file.filename} from a host that is not allowed"
                raise DependencyUnresolvable(msg)
            auth = self._index.credentials if self._index.is_origin(url) else None
            # The bytes as they are: the hash is over the file, so no encoding may come between.
            request = client.build_request("GET", url, headers={"Accept-Encoding": "identity"})
            response = await client.send(request, stream=True, auth=None if auth is None else _basic(auth))
            if response.status_code == httpx.codes.OK:
                return response
            await response.aclose()
            if response.status_code in _AGAIN:
                raise _Transient(response.status_code)
            if response.next_request is None:
                msg = f"the package index does not give out {file.filename} (HTTP {response.status_code})"
                raise DependencyUnresolvable(msg)
            url = str(response.next_request.url)
        msg = f"the package index redirects {file.filename} without end"
        raise DependencyUnresolvable(msg)

    async def _keep(self, response: httpx.Response, file: LockedFile, budget: "_Budget", progress: Progress) -> None:
        target = self.path(file)
        total = _stated_size(response, file)
        part = await asyncio.to_thread(_Part, target, self._settings.wheels_dir / _PARTS)
        try:
            async for chunk in response.aiter_raw(_CHUNK_BYTES):
                await asyncio.to_thread(part.write, chunk)
                budget.take(len(chunk))
                progress(part.size, total)
            if part.sha256() != file.sha256:
                msg = f"{file.filename} is not the file that the lock names: its SHA-256 differs"
                raise BuildFailed(msg, log_tail="")
            await asyncio.to_thread(part.keep)
        except BaseException:
            budget.give_back(part.size)  # the next try begins anew
            raise
        finally:
            await asyncio.to_thread(part.discard)

    async def _connected(self) -> httpx.AsyncClient:
        """The one client. Made on first use: to read the authorities takes some 30 ms."""
        async with self._opening:
            if self._client is None:
                self._client = httpx.AsyncClient(
                    verify=await asyncio.to_thread(_authorities, ca_bundle(self._settings)),
                    proxy=self._settings.index_proxy,
                    trust_env=False,
                    timeout=_TIMEOUT,
                    follow_redirects=False,
                )
            return self._client


class _Budget:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = 0

    def take(self, count: int) -> None:
        self.spent += count
        if self.spent > self.limit:
            msg = f"the packages are larger than the {self.limit // 2**20} MB that an environment may take"
            raise BuildFailed(msg, log_tail="")

    def give_back(self, count: int) -> None:
        self.spent -= count


class _Part:
    """A file on its way in, on the disk of its place, so that the last step is one rename. All of it blocks."""

    def __init__(self, target: Path, parts: Path) -> None:
        self.size = 0
        self._target = target
        self._sha256 = hashlib.sha256()
        parts.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=parts)
        self._name = Path(name)
        self._file = os.fdopen(descriptor, "wb")

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._sha256.update(chunk)
        self.size += len(chunk)

    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def keep(self) -> None:
        self._file.close()
        self._name.chmod(0o644)
        for directory in (self._target.parent.parent, self._target.parent):
            directory.mkdir(mode=0o755, exist_ok=True)
            directory.chmod(0o755)  # whatever the umask is: builds read it under another user id
        self._name.replace(self._target)

    def discard(self) -> None:
        """Nothing is left of it; after `keep` there is nothing to do."""
        with suppress(OSError):
            self._file.close()
        self._name.unlink(missing_ok=True)


def _mark_used(path: Path) -> bool:
    """The file is there; its time of change tells `sweep` that it was wanted."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _sweep(directory: Path, older_than_s: float) -> None:
    before = time.time() - older_than_s
    for path in [*directory.glob("??/*/*"), *directory.glob(f"{_PARTS}/*")]:
        with suppress(OSError):  # gone meanwhile
            if path.stat().st_mtime < before:
                path.unlink()
                if path.parent.name != _PARTS:
                    path.parent.rmdir()


def _stated_size(response: httpx.Response, file: LockedFile) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) <= len(str(2**63)) else file.size


def _basic(credentials: tuple[str, str]) -> httpx.BasicAuth:
    return httpx.BasicAuth(unquote(credentials[0]), unquote(credentials[1]))


def _authorities(bundle: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if bundle is not None:
        context.load_verify_locations(cafile=bundle)
    return context
