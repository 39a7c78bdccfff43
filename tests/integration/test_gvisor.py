"""Sandboxes under gVisor (`KODOU_DOCKER_RUNTIME=runsc`): they hold to the same contract, and a server serves with them.

Left out of the contract's tests are those that look at a sandbox's processes from this host, which cannot see them there. What
they promise is looked at from inside here.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.driver.selection import select_backend
from orchestrator.errors import EngineUnavailable, SandboxLost
from orchestrator.sandboxes.backend import Sandbox, SandboxSpec
from orchestrator.sandboxes.docker.backend import DockerBackend
from orchestrator.sandboxes.docker.host import docker_promises
from orchestrator.sandboxes.replies import TimedOut, Violation, WorkerDied
from orchestrator.settings import BackendName, Settings
from tests.contract.conftest import BackendCase, run_labels
from tests.contract.marked import Marked
from tests.contract.running import CALL_S, RESOURCES, Running, connected, list_run_dir, started, until
from tests.contract.test_backend import (
    test_a_started_sandbox_answers_calls,
    test_a_worker_that_dies_is_told_and_replaced,
    test_after_a_crash_sandboxes_are_found_and_taken_up_with_their_state,
    test_an_image_that_is_gone_is_not_found,
    test_calls_of_a_session_share_state,
    test_owned_are_those_with_all_the_labels,
    test_stopping_one_that_nobody_connected_to,
    test_the_link_is_the_only_file_shared,
    test_two_sandboxes_are_apart,
)
from tests.contract.test_freezing import test_a_frozen_sandbox_stands_still_and_goes_on
from tests.contract.test_isolation import (
    test_descriptors_of_the_server_are_not_inherited,
    test_memory_is_bounded,
    test_no_network_is_there,
    test_other_processes_cannot_be_seen,
    test_the_link_cannot_be_replaced,
    test_the_servers_variables_cannot_be_seen,
    test_tmp_is_bounded,
)
from tests.docker_fixtures import DockerBase, docker_settings
from tests.servers import Server, Session, running

__all__ = [  # named once more, for they are what this module consists of
    "test_a_frozen_sandbox_stands_still_and_goes_on",
    "test_a_started_sandbox_answers_calls",
    "test_a_worker_that_dies_is_told_and_replaced",
    "test_after_a_crash_sandboxes_are_found_and_taken_up_with_their_state",
    "test_an_image_that_is_gone_is_not_found",
    "test_calls_of_a_session_share_state",
    "test_descriptors_of_the_server_are_not_inherited",
    "test_memory_is_bounded",
    "test_no_network_is_there",
    "test_other_processes_cannot_be_seen",
    "test_owned_are_those_with_all_the_labels",
    "test_stopping_one_that_nobody_connected_to",
    "test_the_link_cannot_be_replaced",
    "test_the_link_is_the_only_file_shared",
    "test_the_servers_variables_cannot_be_seen",
    "test_tmp_is_bounded",
    "test_two_sandboxes_are_apart",
]

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

MB = 1024 * 1024
# Statements: how many processes run in the sandbox, but for the two of its runner.
OTHERS = "import os; result = len([n for n in os.listdir('/proc') if n.isdecimal()]) - 2"
# Statements that leave a child, and a daemon that left its parents' session; both take no hint.
CHILDREN = """
import os, subprocess, sys
command = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"]
subprocess.Popen(command)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(command[0], command)
    os._exit(0)
"""


@pytest.fixture
async def backend_case(docker_base: DockerBase, gvisor: str, open_tmp_path: Path) -> AsyncIterator[BackendCase]:
    settings = docker_settings(open_tmp_path / "data", docker_base.name, docker_runtime=gvisor)

    async def kill(sandbox: Sandbox) -> None:
        await asyncio.to_thread(docker_base.engine.kill, sandbox.data["container"])

    def renewed() -> DockerBackend:
        return DockerBackend(settings)

    case = BackendCase(renewed(), docker_base.image, settings, renewed, kill, run_labels())
    try:
        yield case
        for sandbox in await case.backend.owned(case.labels):
            await case.backend.stop(sandbox)
    finally:
        await case.backend.aclose()


@pytest.fixture
def isolating_case(backend_case: BackendCase) -> BackendCase:
    return backend_case


# --- the contract, looked at from inside ---


async def until_alone(running: Running) -> None:
    """What was killed is listed until an application's kernel has collected it, which may take a moment."""
    async with asyncio.timeout(CALL_S):
        while await running.run(OTHERS) != 0:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_timeout_kills_all_that_the_call_started(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        await running.run(f"import builtins; builtins.kept = 1\n{CHILDREN}")
        assert await running.run(OTHERS) >= 2
        assert isinstance(await running.reply("while True: pass", timeout_s=1), TimedOut)
        # Killed and collected by an application's kernel, that may take longer than a fresh worker is waited for: then
        # the sandbox is given up as a whole.
        if running.channel.alive():
            await until_alone(running)
            assert await running.run("import builtins; result = hasattr(builtins, 'kept')") is False


async def test_a_worker_that_dies_leaves_no_process(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        await running.run(CHILDREN)
        assert await running.run(OTHERS) >= 2
        assert await running.reply("import os; os._exit(0)") == WorkerDied(0, None)
        await until_alone(running)


async def test_a_sandbox_killed_from_outside_ends_its_channel_and_leaves_nothing(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        own = Marked(running.sandbox.data["container"])  # gVisor's processes, and the engine's for it, name it
        assert own.pids()
        calling = asyncio.create_task(running.reply("import time; time.sleep(60)"))
        await backend_case.kill(running.sandbox)
        assert isinstance(await asyncio.wait_for(calling, 60), Violation)
        assert not running.channel.alive()
        with pytest.raises(SandboxLost):
            await backend_case.backend.connect(running.sandbox, timeout_s=5)
        await backend_case.backend.stop(running.sandbox)
        assert list_run_dir(backend_case) == []
        await until(lambda: own.pids() == [], within_s=60)


async def test_a_frozen_sandbox_stops(backend_case: BackendCase) -> None:
    backend = backend_case.backend
    async with started(backend_case) as running:
        await backend.freeze(running.sandbox)
        await backend.stop(running.sandbox)
        assert not running.channel.alive()
        assert await backend.owned(backend_case.labels) == []
        assert list_run_dir(backend_case) == []


async def test_processes_are_bounded(backend_case: BackendCase) -> None:
    async with started(backend_case) as running:
        forks = """
import os, time
count = 0
try:
    while count < 1000:
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        count += 1
except OSError:
    result = count
"""
        assert RESOURCES.pids // 2 < await running.run(forks) < RESOURCES.pids
        assert await running.reply("import os; os._exit(0)") == WorkerDied(0, None)  # and the bound is no trap
        await until_alone(running)


async def test_threads_are_bounded_and_come_by_their_number(backend_case: BackendCase) -> None:
    threads = """
import threading
release, started = threading.Event(), []
try:
    for n in range(1000):
        thread = threading.Thread(target=release.wait)
        thread.start()
        started.append(thread)
except RuntimeError:
    pass
result = len(started)
release.set()
for thread in started:
    thread.join()
"""
    async with started(backend_case) as running:
        assert RESOURCES.pids // 2 < await running.run(threads) < RESOURCES.pids


async def test_files_in_tmp_end_a_sandbox_that_fills_its_memory_with_them(backend_case: BackendCase) -> None:
    """gVisor counts no inodes. What it keeps of them is the sandbox's memory, and the host's limit on that holds."""
    sandbox = await backend_case.backend.start(
        backend_case.image, SandboxSpec(replace(RESOURCES, memory_mb=64)), labels=backend_case.labels
    )
    running = await connected(backend_case, sandbox)
    try:
        reply = await running.reply("for n in range(1_000_000): open(f'/tmp/{n}', 'w').close()", timeout_s=60)
        assert isinstance(reply, Violation | WorkerDied)
    finally:
        await running.channel.aclose()


# --- as a server has it ---


@pytest.fixture(scope="module")
def shared(docker_base: DockerBase, gvisor: str) -> Iterator[Server]:
    settings = {
        "KODOU_DOCKER_RUNTIME": gvisor,
        "KODOU_BASE_IMAGES": json.dumps([docker_base.name]),
        "KODOU_ALLOW_EGRESS": "1",
    }
    with running("docker", **settings) as server:
        yield server


def test_a_session_with_packages_of_compiled_code_serves(shared: Server) -> None:
    session = shared.session(dependencies=["markupsafe"])
    assert session.value("markupsafe._speedups._escape_inner", "<") == "&lt;"  # compiled code
    assert session.value("builtins.len", "x" * (4 * MB)) == 4 * MB
    assert session.call("builtins.print", "told")["stdout"] == "told\n"
    session.close()


def test_a_call_over_its_time_is_ended_and_the_session_goes_on(shared: Server) -> None:
    session = shared.session()
    began = time.monotonic()
    assert session.call("time.sleep", 600, timeout=500)["code"] == "timeout"
    assert time.monotonic() - began < 120
    assert session.value("math.sqrt", 16) == 4
    session.close()


def test_memory_that_runs_out_is_told_and_ends_nobody_else(shared: Server) -> None:
    session, other = shared.session(resources={"memory_mb": 96}), shared.session("bob")
    reply = session.post("builtins.bytearray", 400 * MB)
    assert reply.status_code != 200 or reply.json()["error"] is True
    assert other.value("math.sqrt", 16) == 4
    other.close()
    session.close()


@pytest.mark.parametrize("directory", ["/", "/etc", "/opt/kodou/env", "/opt/kodou/lib/runner", "/run/kodou"])
def test_nothing_but_tmp_can_be_written(session: Session, directory: str) -> None:
    reply = session.call("builtins.open", f"{directory}/file", "w")
    assert reply["exception"]["type"] in {"OSError", "PermissionError"}


def test_the_kernel_is_not_the_hosts(session: Session) -> None:
    assert session.value("os.uname")[2] != os.uname().release


def test_egress_goes_through_its_proxy_and_nowhere_else(shared: Server) -> None:
    client = shared.client("out", scopes="setup,call,egress")
    setup = client.post("/environment/python/setup", content=json.dumps({"network": "egress"})).json()
    session = Session(setup["sessionid"], client, setup)
    fetch = """
import os, socket, urllib.error, urllib.request
try:
    urllib.request.urlopen("http://169.254.169.254/", timeout=15)
except urllib.error.HTTPError as exc:
    result = exc.code
for name in list(os.environ):
    if name.lower().endswith("_proxy"):
        del os.environ[name]
with socket.socket() as direct:
    direct.settimeout(2)
    result = [result, direct.connect_ex(("169.254.169.254", 80)) != 0]
"""
    expression = f"(lambda names: (exec({fetch!r}, names), names['result'])[1])({{}})"
    assert session.value("builtins.eval", expression) == [403, True]
    session.close()


@pytest.fixture(scope="module")
def session(shared: Server) -> Iterator[Session]:
    opened = shared.session()
    yield opened
    opened.close()


# --- a runtime that cannot serve ---


async def test_doctor_tells_of_gvisor(docker_base: DockerBase, gvisor: str, open_tmp_path: Path) -> None:
    settings = docker_settings(open_tmp_path / "data", docker_base.name, docker_runtime=gvisor)
    told = {promise.name: promise for promise in await docker_promises(settings)}
    assert told["runtime"].held, told["runtime"].detail
    assert "gVisor on systrap" in told["runtime"].detail
    assert told["gVisor"].held


@pytest.mark.parametrize("backend", ["docker", "auto"])
async def test_a_runtime_that_the_engine_lacks_keeps_a_server_from_starting(
    docker_base: DockerBase, open_tmp_path: Path, backend: BackendName
) -> None:
    settings = Settings(
        data_dir=open_tmp_path,
        backend=backend,
        base_images=(docker_base.name,),
        docker_runtime="runsc-that-is-not-there",
    )
    with pytest.raises(EngineUnavailable, match="KODOU_DOCKER_RUNTIME: the engine has no runtime"):
        await select_backend(settings)


async def test_a_runtime_that_starts_nothing_offers_nothing(docker_base: DockerBase, open_tmp_path: Path) -> None:
    backend = DockerBackend(docker_settings(open_tmp_path / "data", docker_base.name, docker_runtime="runsc-not-there"))
    try:
        await backend.images.prepare()
        assert await backend.images.interpreters() == []
    finally:
        await backend.aclose()
