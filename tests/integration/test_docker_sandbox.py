"""What docker alone can do to sandboxes: engines that go away, containers that a crash left, servers that share an engine."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from docker.utils import kwargs_from_env

from orchestrator.driver.selection import select_backend
from orchestrator.errors import EngineUnavailable, NotFound, SandboxLost
from orchestrator.sandboxes.docker.backend import DockerBackend
from orchestrator.sandboxes.docker.options import sandbox_body
from orchestrator.sandboxes.instance import instance_id
from orchestrator.sandboxes.seccomp import profile_json
from orchestrator.settings import Settings
from tests.docker_fixtures import DockerBase, docker_settings
from tests.sandbox_calls import SPEC, connected, running

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


def containers(base: DockerBase, data_dir: Path) -> list[str]:
    wanted = {"label": [f"io.kodou.instance={instance_id(data_dir)}"]}
    return [each["Id"] for each in base.engine.containers(all=True, filters=wanted)]


# --- what is there, and whose ---


async def test_a_handle_is_enough_to_find_a_sandbox_by(docker_backend: DockerBackend, docker_base: DockerBase) -> None:
    labels = {"io.kodou.session": "s1", "io.kodou.owner": "o1"}
    sandbox = await docker_backend.start(docker_base.image, SPEC, labels=labels)
    assert await docker_backend.owned({"io.kodou.session": "s1"}) == [sandbox]
    assert await docker_backend.owned({"io.kodou.session": "s2"}) == []


async def test_servers_that_share_an_engine_leave_each_others_sandboxes_alone(
    docker_backend: DockerBackend, docker_base: DockerBase, open_tmp_path: Path
) -> None:
    await docker_backend.start(docker_base.image, SPEC, labels={})
    other = DockerBackend(docker_settings(open_tmp_path / "other", docker_base.name))
    assert await other.owned({}) == []
    await other.aclose()


async def test_one_that_a_crash_left_unstarted_is_owned_and_can_be_stopped(
    docker_backend: DockerBackend, docker_base: DockerBase, open_tmp_path: Path
) -> None:
    run_dir = open_tmp_path / "data" / "run" / ("5" * 32)
    run_dir.mkdir(parents=True)
    body = sandbox_body(
        docker_base.image.ref,
        SPEC,
        sandbox_id="5" * 32,
        environment_id="test",
        instance=instance_id(open_tmp_path / "data"),
        uid=2_000_000,
        run_dir=run_dir,
        hosts=run_dir,
        seccomp=profile_json(),
        labels={},
    )
    docker_base.engine.create_container_from_config(body, "kodou-" + "5" * 32)
    (sandbox,) = await docker_backend.owned({})
    status = await docker_backend.inspect(sandbox)
    assert (status.running, status.reason) == (False, "exited")
    await docker_backend.stop(sandbox)
    assert await docker_backend.owned({}) == []
    assert not run_dir.exists()


async def test_user_ids_that_are_held_since_before_a_restart_are_not_given_again(
    docker_backend: DockerBackend, docker_base: DockerBase, open_tmp_path: Path
) -> None:
    first = await docker_backend.start(docker_base.image, SPEC, labels={})
    settings = docker_settings(
        open_tmp_path / "data", docker_base.name, sandbox_uid_base=int(first.data["uid"]), sandbox_uid_count=2
    )
    restarted = DockerBackend(settings)
    second = await restarted.start(docker_base.image, SPEC, labels={})
    assert int(second.data["uid"]) == int(first.data["uid"]) + 1
    with pytest.raises(EngineUnavailable, match="user ids"):
        await restarted.start(docker_base.image, SPEC, labels={})
    await restarted.stop(first)
    await restarted.start(docker_base.image, SPEC, labels={})
    await restarted.aclose()


# --- starts that fail ---


async def test_a_start_without_its_image_leaves_nothing(
    docker_backend: DockerBackend, docker_base: DockerBase, open_tmp_path: Path
) -> None:
    with pytest.raises(NotFound):
        await docker_backend.start(replace(docker_base.image, ref="kodou/env:none"), SPEC, labels={})
    assert containers(docker_base, open_tmp_path / "data") == []
    assert list((open_tmp_path / "data" / "run").iterdir()) == []


async def test_a_start_that_is_cancelled_leaves_nothing(
    docker_backend: DockerBackend, docker_base: DockerBase, open_tmp_path: Path
) -> None:
    run_dir = open_tmp_path / "data" / "run"
    starting = asyncio.create_task(docker_backend.start(docker_base.image, SPEC, labels={}))
    while not (run_dir.exists() and list(run_dir.iterdir())):  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert containers(docker_base, open_tmp_path / "data") == []
    assert list(run_dir.iterdir()) == []


async def test_a_sandbox_that_ends_before_its_runner_connects_is_told_at_once(
    docker_backend: DockerBackend, docker_base: DockerBase
) -> None:
    sandbox = await docker_backend.start(docker_base.image, SPEC, labels={})
    docker_base.engine.kill(sandbox.data["container"])
    docker_base.engine.wait(sandbox.data["container"])
    for _ in range(2):  # what it said before its end may still be read, once
        with contextlib.suppress(SandboxLost):
            await (await docker_backend.connect(sandbox, timeout_s=600)).aclose()
    with pytest.raises(SandboxLost, match="ended before its runner connected: exited"):
        await docker_backend.connect(sandbox, timeout_s=600)


async def test_one_that_was_killed_has_ended_with_its_signal(
    docker_backend: DockerBackend, docker_base: DockerBase
) -> None:
    sandbox = await docker_backend.start(docker_base.image, SPEC, labels={})
    docker_base.engine.kill(sandbox.data["container"])
    docker_base.engine.wait(sandbox.data["container"])
    status = await docker_backend.inspect(sandbox)
    assert (status.running, status.exit_code, status.reason) == (False, 137, "exited")


# --- network ---


async def test_without_a_network_the_sandbox_still_has_a_loopback_and_its_names(
    docker_backend: DockerBackend, docker_base: DockerBase
) -> None:
    talk = """
import socket
listener = socket.create_server(("localhost", 0))
socket.create_connection(listener.getsockname()).sendall(b"over loopback")
result = [listener.accept()[0].recv(100).decode(), socket.gethostbyname(socket.gethostname())]
"""
    async with running(docker_backend, docker_base.image) as calls:
        assert await calls.run(talk) == ["over loopback", "127.0.0.1"]


# --- engines that go away ---


@pytest.fixture
def engine_link(open_tmp_path: Path) -> Iterator[Path]:
    """A link to the engine's socket, that a test can take away."""
    url = kwargs_from_env().get("base_url") or "unix:///var/run/docker.sock"
    if not url.startswith("unix://"):
        pytest.skip("this engine is not reached through a Unix socket")
    link = open_tmp_path / "docker.sock"
    link.symlink_to(url.removeprefix("unix://"))
    yield link
    gc.collect()  # so that what docker's SDK leaves open is closed, and told, in this test


# docker's SDK leaves the socket of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_engine_that_goes_away_is_unavailable_and_found_again(
    docker_base: DockerBase, open_tmp_path: Path, engine_link: Path
) -> None:
    settings = docker_settings(open_tmp_path / "data", docker_base.name, docker_url=f"unix://{engine_link}")
    backend = DockerBackend(settings)
    async with running(backend, docker_base.image) as calls:
        engine_link.rename(engine_link.with_suffix(".away"))  # noqa: ASYNC240 - nothing else runs here
        hang_up(backend)
        with pytest.raises(EngineUnavailable):
            await backend.inspect(calls.sandbox)
        assert await calls.run("result = 6 * 7") == 42  # the link does not need the engine
        engine_link.with_suffix(".away").rename(engine_link)
        assert (await backend.inspect(calls.sandbox)).running
    await backend.aclose()


def hang_up(backend: DockerBackend) -> None:
    """Close the connections that the backend kept open for its next requests, as an engine that ends does."""
    for client in backend._engine._clients:
        client.close()


async def test_a_sandbox_is_not_forgotten_while_the_engine_cannot_stop_it(
    docker_base: DockerBase, docker_backend: DockerBackend, open_tmp_path: Path
) -> None:
    sandbox = await docker_backend.start(docker_base.image, SPEC, labels={})
    settings = docker_settings(open_tmp_path / "data", docker_base.name, docker_url="tcp://127.0.0.1:1")
    cut_off = DockerBackend(settings)
    with pytest.raises(EngineUnavailable):
        await cut_off.stop(sandbox)
    await cut_off.aclose()
    calls = await connected(docker_backend, sandbox)  # its link is still there
    assert await calls.run("result = 1") == 1
    await calls.channel.aclose()


async def test_an_engine_that_hangs_is_unavailable(open_tmp_path: Path, docker_base: DockerBase) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        settings = docker_settings(open_tmp_path, docker_base.name, docker_url=url, docker_timeout_s=0.2)
        backend = DockerBackend(settings)
        with pytest.raises(EngineUnavailable):
            await backend.start(docker_base.image, SPEC, labels={})
        assert not (open_tmp_path / "run").exists()
        await backend.aclose()


# --- selection ---


async def test_auto_takes_docker_where_an_engine_answers(docker_base: DockerBase, open_tmp_path: Path) -> None:
    backend = await select_backend(Settings(data_dir=open_tmp_path, base_images=(docker_base.name,)))
    assert backend.name == "docker"
    await backend.aclose()


async def test_docker_is_refused_where_no_engine_answers(open_tmp_path: Path) -> None:
    settings = Settings(data_dir=open_tmp_path, backend="docker", docker_url="tcp://127.0.0.1:1")
    with pytest.raises(EngineUnavailable, match="no Docker engine answers"):
        await select_backend(settings)
