"""Environments become images of a Docker engine, and go away again; nothing that failed leaves one."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from pathlib import Path

import docker.errors
import pytest

from orchestrator.errors import BuildFailed, DependencyUnresolvable
from orchestrator.sandboxes.backend import BuildEvent, BuildOrder, Image
from orchestrator.sandboxes.docker.backend import DockerBackend
from orchestrator.sandboxes.docker.options import builder_body
from orchestrator.sandboxes.instance import instance_id
from orchestrator.sandboxes.seccomp import profile_json
from orchestrator.sandboxes.workspace import Workspace
from tests.docker_fixtures import DockerBase, build_order, docker_settings
from tests.made_packages import sdist, wheel
from tests.sandbox_calls import SPEC, running

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


@pytest.fixture
def environment_id(docker_base: DockerBase) -> Iterator[str]:
    """The id of an environment whose image goes away with the test."""
    chosen = f"test-{secrets.token_hex(6)}"
    yield chosen
    with suppress(docker.errors.ImageNotFound):
        docker_base.engine.remove_image(f"kodou/env:{chosen}", force=True)


async def built(backend: DockerBackend, order: BuildOrder) -> tuple[Image, list[BuildEvent]]:
    events = [event async for event in backend.images.build(order)]
    image = await backend.images.find(order.environment_id)
    assert image is not None
    return image, events


def builders(base: DockerBase, data_dir: Path) -> list[str]:
    wanted = {"label": ["io.kodou.kind=builder", f"io.kodou.instance={instance_id(data_dir)}"]}
    return [each["Names"][0] for each in base.engine.containers(all=True, filters=wanted)]


def assert_nothing_is_left(base: DockerBase, data_dir: Path, environment_id: str) -> None:
    assert builders(base, data_dir) == []
    assert list((data_dir / "builds").iterdir()) == []
    with pytest.raises(docker.errors.ImageNotFound):
        base.engine.inspect_image(f"kodou/env:{environment_id}")


# --- interpreters ---


async def test_the_base_is_offered_with_what_it_says_of_itself(
    docker_base: DockerBase, docker_backend: DockerBackend
) -> None:
    (interpreter,) = await docker_backend.images.interpreters()
    assert interpreter == docker_base.interpreter
    assert interpreter.version.startswith(interpreter.markers["python_version"])
    assert interpreter.platform.startswith(f"{interpreter.markers['platform_machine']}-manylinux_2_")


async def test_preparing_again_builds_nothing_anew(docker_base: DockerBase, docker_backend: DockerBackend) -> None:
    (before,) = await docker_backend.images.interpreters()
    image = docker_base.engine.inspect_image(before.base)["Id"]
    await docker_backend.images.prepare()
    assert await docker_backend.images.interpreters() == [before]
    assert docker_base.engine.inspect_image(before.base)["Id"] == image


async def test_before_preparing_nothing_is_offered(docker_base: DockerBase, open_tmp_path: Path) -> None:
    backend = DockerBackend(docker_settings(open_tmp_path, docker_base.name))
    assert await backend.images.interpreters() == []
    await backend.aclose()


async def test_a_base_that_cannot_be_used_hinders_no_other(docker_base: DockerBase, open_tmp_path: Path) -> None:
    settings = docker_settings(open_tmp_path, docker_base.name)
    bases = ("kodou.invalid/nothing:1", docker_base.name)
    backend = DockerBackend(settings.model_copy(update={"base_images": bases}))
    await backend.images.prepare()
    assert await backend.images.interpreters() == [docker_base.interpreter]
    await backend.aclose()


@pytest.fixture
async def noisy_base(docker_base: DockerBase) -> AsyncIterator[str]:
    """A base image that sets variables, as most do."""
    name = f"kodou-test-base:{secrets.token_hex(6)}"
    container = docker_base.engine.create_container(docker_base.name, "true")["Id"]
    repository, _, tag = name.partition(":")
    changes = ["ENV GPG_KEY=0123", "ENV PYTHONPATH=/tmp", "ENV LANG=de_DE"]
    docker_base.engine.commit(container, repository=repository, tag=tag, changes=changes)
    docker_base.engine.remove_container(container)
    yield name
    docker_base.engine.remove_image(name, force=True)


async def test_variables_of_the_base_do_not_reach_a_sandbox(
    noisy_base: str, docker_base: DockerBase, open_tmp_path: Path, environment_id: str
) -> None:
    backend = DockerBackend(docker_settings(open_tmp_path / "data", noisy_base))
    await backend.images.prepare()
    (interpreter,) = await backend.images.interpreters()
    image, _ = await built(backend, build_order(environment_id, interpreter))
    async with running(backend, image) as calls:
        assert await calls.run("import os; result = dict(os.environ)") == {
            "PATH": "/opt/kodou/env/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": "/tmp",
            "TMPDIR": "/tmp",
            "LANG": "C.UTF-8",
            "HOSTNAME": "sandbox",
        }
    await backend.images.remove(image)
    docker_base.engine.remove_image(interpreter.base)
    await backend.aclose()


@pytest.mark.slow
async def test_a_runner_image_that_somebody_removed_is_made_again(
    noisy_base: str, docker_base: DockerBase, open_tmp_path: Path, environment_id: str
) -> None:
    backend = DockerBackend(docker_settings(open_tmp_path / "data", noisy_base))
    await backend.images.prepare()
    (interpreter,) = await backend.images.interpreters()
    docker_base.engine.remove_image(interpreter.base)
    image, _ = await built(backend, build_order(environment_id, interpreter))
    await backend.images.remove(image)
    docker_base.engine.remove_image(interpreter.base)
    await backend.aclose()


# --- builds ---


async def test_an_environment_is_built_found_listed_and_used(
    docker_backend: DockerBackend, docker_base: DockerBase, tmp_path: Path, environment_id: str
) -> None:
    order = build_order(environment_id, docker_base.interpreter, wheel(tmp_path))
    image, events = await built(docker_backend, order)
    assert [event.package for event in events if event.package] == ["tiny"]
    assert [event.phase for event in events][-1] == "commit"
    assert image.environment_id == environment_id
    assert 10_000 < image.size_bytes < 5_000_000  # what it adds, not what its base has
    assert image.labels["io.kodou.interpreter"] == docker_base.interpreter.digest
    assert image in await docker_backend.images.list()
    async with running(docker_backend, image) as calls:
        assert await calls.run("import tiny; result = tiny.main()") == 5


async def test_modules_are_compiled_beforehand(
    docker_backend: DockerBackend, docker_base: DockerBase, tmp_path: Path, environment_id: str
) -> None:
    order = build_order(environment_id, docker_base.interpreter, wheel(tmp_path))
    image, _ = await built(docker_backend, order)
    async with running(docker_backend, image) as calls:
        assert await calls.run("import os, tiny; result = os.path.exists(tiny.__cached__)")


async def test_a_source_is_built_by_the_build_user_without_a_network(
    docker_backend: DockerBackend, docker_base: DockerBase, tmp_path: Path, environment_id: str
) -> None:
    seen = """
import os, socket
module = "seen = " + repr([os.getuid(), os.getgid(), [name for _, name in socket.if_nameindex()], os.listdir("/sys/class/net")])
"""
    source = sdist(tmp_path, at_build=seen)
    order = build_order(environment_id, docker_base.interpreter, source, from_source=True)
    image, _ = await built(docker_backend, order)
    async with running(docker_backend, image) as calls:
        assert await calls.run("import fromsource; result = fromsource.seen") == [10_001, 10_001, ["lo"], ["lo"]]


async def test_a_build_that_fails_leaves_nothing_but_its_log(
    docker_backend: DockerBackend, docker_base: DockerBase, open_tmp_path: Path, tmp_path: Path, environment_id: str
) -> None:
    source = sdist(tmp_path, at_build="raise RuntimeError('no luck today')")
    order = build_order(environment_id, docker_base.interpreter, source, from_source=True)
    with pytest.raises(BuildFailed) as caught:
        await built(docker_backend, order)
    assert "no luck today" in caught.value.log_tail
    assert_nothing_is_left(docker_base, open_tmp_path / "data", environment_id)


async def test_a_build_that_nobody_waits_for_any_more_leaves_nothing(
    docker_backend: DockerBackend, docker_base: DockerBase, open_tmp_path: Path, tmp_path: Path, environment_id: str
) -> None:
    source = sdist(tmp_path, at_build="import time; time.sleep(600)")
    order = build_order(environment_id, docker_base.interpreter, source, from_source=True)
    async with aclosing(docker_backend.images.build(order)) as events:  # type: ignore[type-var]
        await anext(events)
    assert_nothing_is_left(docker_base, open_tmp_path / "data", environment_id)


async def test_a_build_that_is_cancelled_leaves_nothing(
    docker_backend: DockerBackend, docker_base: DockerBase, open_tmp_path: Path, tmp_path: Path, environment_id: str
) -> None:
    source = sdist(tmp_path, at_build="import time; time.sleep(600)")
    order = build_order(environment_id, docker_base.interpreter, source, from_source=True)
    task = asyncio.create_task(built(docker_backend, order))
    while not builders(docker_base, open_tmp_path / "data"):  # noqa: ASYNC110 - only the engine knows
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_nothing_is_left(docker_base, open_tmp_path / "data", environment_id)


async def test_what_a_crash_left_of_a_build_is_removed_and_one_under_way_is_not(
    docker_backend: DockerBackend, docker_base: DockerBase, open_tmp_path: Path
) -> None:
    data_dir = open_tmp_path / "data"
    async with Workspace.held(data_dir / "builds") as workspace:
        body = builder_body(
            docker_base.interpreter.base,
            ["probe"],
            instance=instance_id(data_dir),
            memory_mb=128,
            cpus=1,
            seccomp=profile_json(),
            mounts={},
        )
        live = docker_base.engine.create_container_from_config(body, f"kodou-build-{workspace.id}")["Id"]
        docker_base.engine.create_container_from_config(body, f"kodou-build-{secrets.token_hex(8)}")
        await docker_backend.images.prepare()
        assert builders(docker_base, data_dir) == [f"/kodou-build-{workspace.id}"]
        docker_base.engine.remove_container(live)


# --- images ---


async def test_an_image_that_a_sandbox_uses_is_kept(
    docker_backend: DockerBackend, docker_base: DockerBase, environment_id: str
) -> None:
    image, _ = await built(docker_backend, build_order(environment_id, docker_base.interpreter))
    sandbox = await docker_backend.start(image, SPEC, labels={})
    assert await docker_backend.images.remove(image) is False
    await docker_backend.stop(sandbox)
    assert await docker_backend.images.remove(image) is True
    assert await docker_backend.images.remove(image) is True  # already gone
    assert await docker_backend.images.find(environment_id) is None


async def test_an_image_of_somebody_else_under_a_name_of_ours_is_not_taken(
    docker_backend: DockerBackend, docker_base: DockerBase, environment_id: str
) -> None:
    docker_base.engine.tag(docker_base.name, "kodou/env", tag=environment_id)
    assert await docker_backend.images.find(environment_id) is None
    docker_base.engine.tag(docker_base.image.ref, "kodou/env", tag=environment_id, force=True)
    assert await docker_backend.images.find(environment_id) is None


# --- resolving in a sandbox ---


@pytest.mark.index
async def test_a_set_of_sources_is_resolved_through_the_index_only(
    docker_backend: DockerBackend, docker_base: DockerBase
) -> None:
    lock = await docker_backend.images.lock_in_sandbox(docker_base.interpreter, ["docopt==0.6.2"], timeout_s=120)
    assert 'name = "docopt"' in lock


@pytest.mark.index
async def test_what_cannot_be_resolved_is_explained(docker_backend: DockerBackend, docker_base: DockerBase) -> None:
    with pytest.raises(DependencyUnresolvable, match="docopt"):
        await docker_backend.images.lock_in_sandbox(docker_base.interpreter, ["docopt>999"], timeout_s=120)
