"""Warm sandboxes of a real server: what a session finds in one, and that none outlives its environment or its server."""

import asyncio
import functools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.driver.selection import select_backend
from orchestrator.sandboxes.backend import Sandbox
from orchestrator.sandboxes.labels import POOLED, SESSION_LABEL
from orchestrator.settings import Settings
from tests.made_index import MadeIndex, made_index
from tests.made_packages import wheel
from tests.servers import BACKENDS, Server, Session, require, running

PATIENCE_S = 200.0
TINY = "import os\nprint('imported')\nimporter = os.getpid()\nstate = []\ndef main():\n    return 5\n"
HANGING = "import time\ntime.sleep(10_000)\n"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeIndex]:
    packages = {"tiny": TINY, "hanging": HANGING}
    makers = [functools.partial(wheel, name=name, module=module) for name, module in packages.items()]
    with made_index(tmp_path_factory.mktemp("index"), *makers) as made:
        yield made


@pytest.fixture(scope="module", params=BACKENDS)
def pooled(request: pytest.FixtureRequest, index: MadeIndex) -> Iterator[Server]:
    """A server with a pool; its sessions outlive it."""
    require(request.param)
    settings = {"KODOU_POOL_MEMORY_MB": "256", "KODOU_KEEP_SESSIONS": "1", "KODOU_REAP_INTERVAL_S": "0.5"}
    with running(request.param, KODOU_INDEX_URL=index.url, **settings) as server:
        yield server


def warm(server: Server, environment: str | None = None) -> list[Sandbox]:
    """Sandboxes that wait, or were waiting, of one environment or of all; as another process sees them."""

    async def owned() -> list[Sandbox]:
        settings = Settings(data_dir=server.data_dir, backend=server.backend)
        backend = await select_backend(settings)
        try:
            return await backend.owned({SESSION_LABEL: POOLED})
        finally:
            await backend.aclose()

    found = asyncio.run(owned())
    return [sandbox for sandbox in found if environment in (None, sandbox.environment_id)]


def cold(session: Session) -> str:
    return str(session.setup["cold"])


def hit(server: Server, **body: Any) -> Session:
    """A session that got a warm sandbox; in good time there is one."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        session = server.session(**body)
        if cold(session) == "none":
            return session
        session.close()
        time.sleep(0.5)
    pytest.fail("no session got a warm sandbox")


def gone(server: Server, environment: str | None = None) -> bool:
    """Whether none is left, in good time."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if not warm(server, environment):
            return True
        time.sleep(0.2)
    return False


def test_a_session_finds_its_imports_done_in_a_sandbox_that_is_its_own(pooled: Server) -> None:
    first = hit(pooled, dependencies=["tiny"])
    assert first.value("builtins.eval", "'tiny' in __import__('sys').modules") is True
    reply = first.post(["tiny", "importer"])
    assert (reply.json()["value"], reply.json().get("stdout")) == (1, None)
    assert (reply.headers["kodou-cold"], "kodou-restarted" in reply.headers) == ("none", False)
    first.value(["tiny", "state", {"name": "append", "args": ["first"]}])
    second = hit(pooled, dependencies=["tiny>=1"])  # the same set, said otherwise
    assert second.value(["tiny", "state"]) == []
    assert second.value("tiny.main") == 5
    described = second.client.post(
        "/environment/python/describe", json={"sessionid": second.id, "namepath": "tiny.main"}
    )
    assert described.json()["value"]["name"] == "tiny.main"
    both = {first.value("random.random"), second.value("random.random")}
    assert len(both) == 2
    assert second.call("time.sleep", 1000, timeout=0.2)["code"] == "timeout"
    assert second.value(["tiny", "importer"]) == 1  # the fresh worker has them too
    for session in (first, second):
        session.close()


def test_imports_that_hang_cost_no_setup(pooled: Server) -> None:
    for _ in range(3):
        session = pooled.session(dependencies=["hanging"])
        assert cold(session) in ("environment", "session")
        assert session.value("math.sqrt", 4) == 2
        session.close()
        time.sleep(0.5)


def test_a_server_that_ends_or_crashes_leaves_no_warm_sandbox_and_loses_no_session(pooled: Server) -> None:
    session = hit(pooled, dependencies=["tiny"])
    claimed = session.value("os.getpid"), session.value("builtins.id", 1)
    before = {sandbox.id for sandbox in warm(pooled)}
    pooled.kill()
    assert {sandbox.id for sandbox in warm(pooled)} >= before
    pooled.start()
    assert (session.value("os.getpid"), session.value("builtins.id", 1)) == claimed
    assert len(warm(pooled)) == 1  # the session's
    hit(pooled, dependencies=["tiny"]).close()
    session.close()
    pooled.process.terminate()
    assert pooled.process.wait(PATIENCE_S) == 0
    assert warm(pooled) == []
    pooled.start()


def test_an_environment_that_is_pruned_drains(pooled: Server) -> None:
    session = hit(pooled, dependencies=["tiny"])
    environment = session.setup["environment"]["id"]
    session.close()
    assert environment in pooled.kodou("images", "prune", "--backend", pooled.backend, "--all", "--yes")
    assert gone(pooled, environment)
    again = pooled.session(dependencies=["tiny"])
    assert (cold(again), again.value("tiny.main")) == ("environment", 5)
    again.close()


def test_an_environment_that_is_refreshed_drains(pooled: Server, index: MadeIndex) -> None:
    old = hit(pooled, dependencies=["tiny"])
    environment = old.setup["environment"]["id"]
    old.close()
    index.add(functools.partial(wheel, version="2.0", module=TINY))
    fresh = pooled.session(dependencies=["tiny"], refresh=True)
    assert fresh.setup["environment"]["packages"] == {"tiny": "2.0"}
    assert gone(pooled, environment)
    assert hit(pooled, dependencies=["tiny"]).setup["environment"]["id"] == fresh.setup["environment"]["id"]
