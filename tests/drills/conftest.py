"""Drills: a fault is made on purpose, and after each one nothing may be lost, doubled or left behind."""

import functools
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.drills.at_rest import IN_A_GROUP, INSTANCE, engine, remove_groups
from tests.made_index import MadeIndex, made_index
from tests.made_packages import wheel
from tests.servers import BACKENDS, BASE_IMAGES, Server, require, running


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend that works here."""
    require(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeIndex]:
    """The index of `server`."""
    with made_index(tmp_path_factory.mktemp("index")) as made:
        yield made


@pytest.fixture(scope="session")
def shared_servers(index: MadeIndex) -> Iterator[Callable[[str], Server]]:
    """The server of each backend: they stay until the end, since drills of one backend and of another come by turns."""
    unbounded = {"KODOU_REQUESTS_PER_S": "100000", "KODOU_BURST_REQUESTS": "100000", "KODOU_SETUPS_PER_S": "1000"}
    with ExitStack() as stack:

        @functools.cache
        def started(backend: str) -> Server:
            settings = {"KODOU_INDEX_URL": index.url, "KODOU_REAP_INTERVAL_S": "1", **unbounded}
            server = stack.enter_context(drilled(backend, **settings))
            server.session("warm").close()
            return server

        yield started


@pytest.fixture(scope="session", params=BACKENDS)
def server(request: pytest.FixtureRequest, shared_servers: Callable[[str], Server]) -> Server:
    """One server for all drills that its own end, or settings, are no part of: to start one takes seconds."""
    require(request.param)
    return shared_servers(request.param)


@pytest.fixture
def package(index: MadeIndex) -> Iterator[str]:
    """The name of a package that nobody has asked for yet; its `main` returns 5."""
    name = f"made{secrets.token_hex(4)}"
    index.add(partial(wheel, name=name))
    yield name
    index.release()


@contextmanager
def drilled(backend: str, *, prefix: Sequence[str | Path] = (), **settings: str) -> Iterator[Server]:
    """A server of its own whose leftovers can be told from all others'; strangers' things lie beside it, and stay."""
    with running(backend, prefix=[*IN_A_GROUP, *prefix], **settings) as server:
        try:
            with strangers(server):
                yield server
        finally:
            server.stop()
            remove_groups(server)


@contextmanager
def strangers(server: Server) -> Iterator[None]:
    """Things that look like the server's and are not. Whatever it cleans up meanwhile, they are there at the end."""
    directories = [server.data_dir / name / "a-stranger" for name in ("run", "builds")]
    for path in directories:
        path.mkdir(parents=True, exist_ok=True)
    containers = _foreign_containers() if server.backend == "docker" else []
    try:
        yield
        assert all(path.is_dir() for path in directories)
        for container in containers:
            with engine() as client:
                assert client.inspect_container(container)["State"]["Status"] == "created"
    finally:
        for container in containers:
            with engine() as client:
                client.remove_container(container, force=True)


def _foreign_containers() -> list[str]:
    """Another server's sandbox and builder, and a container that says it is kodou's and not whose."""
    another = secrets.token_hex(8)
    base = json.loads(BASE_IMAGES)[0]
    labels = [
        {"io.kodou.kind": "sandbox", INSTANCE: another, "io.kodou.session": secrets.token_hex(16)},
        {"io.kodou.kind": "builder", INSTANCE: another},
        {"io.kodou.kind": "sandbox"},
    ]
    with engine() as client:
        return [client.create_container(base, ["true"], labels=each)["Id"] for each in labels]
