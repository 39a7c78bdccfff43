"""An ImageStore in memory, a resolver that needs no index, and an HTTP server that does as it is told."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from orchestrator.packages.uv import UvResult
from orchestrator.sandboxes.backend import BuildEvent, BuildOrder, Image, Interpreter
from orchestrator.settings import Settings

PLATFORM = "x86_64-manylinux_2_36"


def interpreter(version: str = "3.12.4", *, digest: str = "base", platform: str = PLATFORM) -> Interpreter:
    major, minor = version.split(".")[:2]
    markers = {
        "implementation_name": "cpython",
        "implementation_version": version,
        "os_name": "posix",
        "platform_machine": platform.split("-")[0],
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": version,
        "python_version": f"{major}.{minor}",
        "sys_platform": "linux",
    }
    return Interpreter("python", version, f"base-{version}", digest, platform, markers)


def wheel_content(name: str, version: str) -> bytes:
    return f"{name} {version}".encode()


def lock_text(packages: Mapping[str, str], *, host: str = "https://files.pythonhosted.org") -> str:
    """As uv writes it: one pure wheel a package."""
    lines = ['lock-version = "1.0"', 'created-by = "uv"']
    if not packages:
        lines.append("packages = []")
    for name, version in packages.items():
        sha256 = hashlib.sha256(wheel_content(name, version)).hexdigest()
        filename = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        lines += ["", "[[packages]]", f'name = "{name}"', f'version = "{version}"']
        lines.append(f'wheels = [{{ url = "{host}/{filename}", hashes = {{ sha256 = "{sha256}" }} }}]')
    return "\n".join(lines) + "\n"


def put_wheels(settings: Settings, packages: Mapping[str, str]) -> None:
    """As if they had been fetched."""
    for name, version in packages.items():
        content = wheel_content(name, version)
        sha256 = hashlib.sha256(content).hexdigest()
        path = settings.wheels_dir / sha256[:2] / sha256 / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class FakeUv:
    """Takes the place of `run_uv`: every package is at version 1, unless `answers` says otherwise."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runs: list[tuple[str, ...]] = []
        self.answers: dict[str, UvResult] = {}  # by the first dependency
        self.version = "1"
        self.refreshed = False
        self.at_once = self.most_at_once = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(
        self,
        args: Sequence[str],
        *,
        settings: Settings,
        stdin: str | None = None,
        timeout_s: float,
        fresh: bool = False,
    ) -> UvResult:
        wanted = (stdin or "").split()
        self.refreshed = fresh and "--refresh" in args
        self.runs.append(tuple(wanted))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.gate.wait()
        await asyncio.sleep(0)
        self.at_once -= 1
        if wanted[0] in self.answers:
            return self.answers[wanted[0]]
        pins = (text.partition(">")[0].partition("==") for text in wanted)
        packages = {name: version or self.version for name, _, version in pins}
        put_wheels(self.settings, packages)
        return UvResult(0, lock_text(packages), "")


@dataclass
class FakeImages:
    """Builds wait for `gate`; `failure` is raised by the next ones while it is set."""

    offered: list[Interpreter] = field(default_factory=lambda: [interpreter("3.12.4"), interpreter("3.11.9")])
    images: dict[str, Image] = field(default_factory=dict)
    orders: list[BuildOrder] = field(default_factory=list)
    sandbox_locks: list[Sequence[str]] = field(default_factory=list)
    sandbox_lock: str = ""
    failure: Exception | None = None
    held: set[str] = field(default_factory=set)  # environments that a sandbox stands on
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def prepare(self) -> None:
        pass

    async def interpreters(self) -> list[Interpreter]:
        return self.offered

    async def lock_in_sandbox(self, interpreter: Interpreter, requirements: Sequence[str], *, timeout_s: float) -> str:
        self.sandbox_locks.append(requirements)
        if self.failure is not None:
            raise self.failure
        return self.sandbox_lock

    async def build(self, order: BuildOrder) -> AsyncIterator[BuildEvent]:
        self.orders.append(order)
        self.started.set()
        yield BuildEvent("install")
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        yield BuildEvent("commit")
        self.add(order.environment_id, labels=order.labels)

    def add(
        self,
        environment_id: str,
        *,
        size_bytes: int = 100,
        created_at: datetime | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Image:
        image = Image(
            environment_id, f"ref-{environment_id}", size_bytes, created_at or datetime.now(UTC), labels or {}
        )
        self.images[environment_id] = image
        return image

    async def find(self, environment_id: str) -> Image | None:
        return self.images.get(environment_id)

    async def list(self) -> list[Image]:
        return list(self.images.values())

    async def remove(self, image: Image) -> bool:
        if image.environment_id in self.held:
            return False
        self.images.pop(image.environment_id, None)
        return True


Answer = Callable[[BaseHTTPRequestHandler], None]


class Upstream:
    """A web server in a thread. `answers` by path; `requests` is what came: (method, path, headers)."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                upstream.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                upstream.answers.get(self.path, status(404))(self)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["Upstream"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def content(body: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def status(code: int, *, location: str | None = None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        if location is not None:
            handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def settings_in(data_dir: Path, **more: object) -> Settings:
    return Settings(data_dir=data_dir, **more)  # type: ignore[arg-type]
