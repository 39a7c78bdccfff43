"""A real server in a process of its own, as `kodou serve` starts it; for the suites that test from outside."""

import asyncio
import functools
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
import docker.errors
import httpx
import pytest

from orchestrator.auth.keys import Keys, NewKey
from orchestrator.auth.tokens import Tokens
from orchestrator.sandboxes.docker.options import ENVIRONMENT_IMAGE, KIND
from orchestrator.sandboxes.labels import INSTANCE_LABEL, PACKAGES_LABEL
from orchestrator.settings import Settings
from orchestrator.store.sql import open_store
from tests.conftest import engine_required

KODOU = Path(sys.executable).with_name("kodou")
READY_S = 240.0  # docker makes its runner images the first time
STOP_S = 120.0  # an engine on a slow machine takes seconds for each container
REPLY_S = 240.0  # a first build from the index
# Of its own, httpx reads all certificates of the machine for each client.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

# What can hold sandboxes here: images and interpreters that the machine has (see scripts/base-image).
BASE_IMAGES = os.environ.get("KODOU_TEST_BASE_IMAGES", '["kodou-base:bookworm", "kodou-base:trixie"]')


@dataclass(frozen=True)
class Session:
    """A session and the client it belongs to."""

    id: str
    client: httpx.Client
    setup: Mapping[str, Any]

    def post(self, namepath: object, *args: object, **members: object) -> httpx.Response:
        """A call. `members` are further ones of the body, or in place of those here."""
        body = {"sessionid": self.id, "namepath": namepath, "args": list(args), **members}
        return self.client.post("/environment/python/call", content=json.dumps(body))

    def call(self, namepath: object, *args: object, **members: object) -> dict[str, Any]:
        """The body of a reply that is no refusal."""
        reply = self.post(namepath, *args, **members)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def value(self, namepath: object, *args: object, **members: object) -> Any:
        reply = self.call(namepath, *args, **members)
        assert reply["error"] is False, reply
        return reply["value"]

    def close(self) -> None:
        self.client.request("DELETE", "/session", json={"sessionid": self.id})


class Server:
    """A running server. `prefix`: what its command stands behind (`faketime`, `prlimit`, a shell that moves itself)."""

    def __init__(
        self, backend: str, data_dir: Path, environment: Mapping[str, str], prefix: Sequence[str | Path] = ()
    ) -> None:
        self.backend = backend
        self.prefix = prefix
        self.data_dir = data_dir
        self.log = data_dir / "server.log"
        self.environment = {**os.environ, **environment, "KODOU_DATA_DIR": str(data_dir)}
        self._clients: list[httpx.Client] = []
        self.key = functools.cache(self._key)
        self.start()

    def start(self) -> None:
        """Start it, or start it again on the same data directory and port; clients made before go on to work."""
        port = self.url.rpartition(":")[2] if hasattr(self, "url") else "0"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, KODOU, "serve", "--backend", self.backend, "--port", port],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.url = self._ready()

    def client(self, owner: str = "ada", **options: Any) -> httpx.Client:
        """A client that shows a key of `owner`, with further options of `_key`."""
        return self.bearing(self.key(owner, **options)["api_id"])

    def bearing(self, token: str | None = None) -> httpx.Client:
        """A client that shows this token, or none."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        client = httpx.Client(base_url=self.url, headers=headers, timeout=REPLY_S, verify=NO_TLS)
        self._clients.append(client)
        return client

    def session(self, owner: str = "ada", **body: object) -> Session:
        client = self.client(owner)
        reply = client.post("/environment/python/setup", content=json.dumps(body))
        assert reply.status_code == 200, reply.text
        return Session(reply.json()["sessionid"], client, reply.json())

    def kodou(self, *arguments: str) -> str:
        """What the command line prints."""
        done = subprocess.run(
            [KODOU, *arguments], env=self.environment, capture_output=True, text=True, timeout=REPLY_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kill(self) -> None:
        """End it as a crash does. `start` goes on from there."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as an operator does; the exit code."""
        for client in self._clients:
            client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        finally:
            if self.process.poll() is None:
                self.kill()

    def _key(self, owner: str, *, scopes: str = "setup,call", expires_s: float | None = None) -> dict[str, Any]:
        """As `kodou keys create` does it, without the second that a new interpreter takes."""

        async def create() -> NewKey:
            settings = Settings(data_dir=self.data_dir)
            store = await asyncio.to_thread(open_store, settings)
            try:
                keys = Keys(store, Tokens.load(self.data_dir), self.data_dir)
                expires_in = None if expires_s is None else timedelta(seconds=expires_s)
                return await keys.create(owner, scopes=scopes.split(","), expires_in=expires_in)
            finally:
                await store.close()

        new = asyncio.run(create())
        return {"id": new.key.id, "key": new.key.id, "secret": new.secret, "api_id": new.api_id}

    def _ready(self) -> str:
        until = time.monotonic() + READY_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                told = json.loads((self.data_dir / "server.json").read_text())
                url = str(told["url"])
                if told["pid"] == self.process.pid and httpx.get(f"{url}/readyz", verify=NO_TLS).status_code == 200:
                    return url
            except (OSError, ValueError, httpx.TransportError):
                pass
            time.sleep(0.1)
        self.kill()
        pytest.fail(f"the server did not become ready:\n{self.log.read_text()[-10_000:]}")


@contextmanager
def running(
    backend: str, *, prefix: Sequence[str | Path] = (), parent: Path | None = None, **settings: str
) -> Iterator[Server]:
    """A server of its own, with these settings, that leaves nothing behind. `parent`: where its data directory is made."""
    # Not pytest's own: users that sandboxes run as must be able to come in.
    data_dir = Path(tempfile.mkdtemp(prefix="kodou-e2e-", dir=parent))
    data_dir.chmod(0o711)
    environment = {
        "KODOU_ALLOW_PROCESS_BACKEND": "1",
        "KODOU_BASE_IMAGES": BASE_IMAGES,
        "KODOU_KEEP_SESSIONS": "0",
        "KODOU_CALL_TIMEOUT_MS": "120000",  # of calls that name none, and have all the time that a busy machine takes
        "KODOU_ORPHAN_S": "300",  # longer than a busy machine takes to start a server that was killed
        "KODOU_LOG_FORMAT": "json",
        "KODOU_LOG_LEVEL": "debug",
        "KODOU_SHUTDOWN_S": "5",
        "KODOU_POOL_MEMORY_MB": "0",  # sandboxes that nobody asked for would load the machine, and be counted
        **settings,
    }
    try:
        server = Server(backend, data_dir, environment, prefix)
        try:
            yield server
        finally:
            server.stop()
            if backend == "docker":
                clear_engine(data_dir)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


def clear_engine(data_dir: Path) -> None:
    """Remove a server's containers, if it was ended too soon to do it itself, and its images, which outlive the directory; but
    not those of runners and of bare interpreters: the other servers of this engine go on with them."""
    ours = {"label": [f"{INSTANCE_LABEL}={(data_dir / 'instance').read_text().strip()}"]}
    of_packages = {"label": [*ours["label"], f"{KIND}={ENVIRONMENT_IMAGE}"]}
    engine = docker.APIClient(**docker.utils.kwargs_from_env(), timeout=60)
    try:
        for container in engine.containers(all=True, quiet=True, filters=ours):
            with suppress(docker.errors.APIError):  # on its way out
                engine.remove_container(container["Id"], force=True)
        for image in engine.images(filters=of_packages):
            if image["Labels"].get(PACKAGES_LABEL):
                with suppress(docker.errors.APIError):  # another server's container stands on it
                    engine.remove_image(image["Id"])
    finally:
        engine.close()


@functools.cache
def why_not(backend: str) -> str | None:
    """Why this machine cannot hold sandboxes of a backend; None if it can."""
    if backend == "docker":
        command = ["docker", "version"]
    elif backend == "bubblewrap":
        command = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    else:
        return None
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return None if done.returncode == 0 else f"{' '.join(command)}: {done.stderr.strip()}"


def require(backend: str) -> None:
    """Skip, or where engines are required fail, if the backend cannot work here."""
    reason = why_not(backend)
    if reason is None:
        return
    if engine_required():
        pytest.fail(reason)
    pytest.skip(reason)


# Those that isolate; `process` has the contract suite and a few tests of the command line.
BACKENDS = [
    pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
    pytest.param("docker", marks=pytest.mark.docker),
]
