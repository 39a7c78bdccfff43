"""A process that serves HTTP and was taken over has no more than the driver's verbs. It cannot do any of this with them."""

import asyncio
import hashlib
import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from orchestrator.driver import messages, wire
from orchestrator.driver.client import Asking
from orchestrator.environments.lock import Lock, LockedFile, environment_id
from orchestrator.errors import BuildFailed, InvalidRequest, KodouError, NotFound
from orchestrator.sandboxes.backend import Interpreter
from tests.docker_fixtures import DockerBase
from tests.driver_fixtures import Driver
from tests.made_packages import sdist, wheel

pytestmark = pytest.mark.anyio
BUILD_S = 240.0
NOBODY = 1_990_000


@pytest.fixture(
    params=[
        pytest.param("bubblewrap_driver", id="bubblewrap", marks=pytest.mark.bubblewrap),
        pytest.param("docker_driver", id="docker", marks=pytest.mark.docker),
    ]
)
def driver(request: pytest.FixtureRequest) -> Driver:
    return request.getfixturevalue(request.param)


def start(environment_id: str, **others: object) -> dict[str, object]:
    fixed = {"memory_mb": 128, "cpus": 1.0, "pids": 16, "disk_mb": 16, "network": "none", "labels": {}}
    return {"verb": "start", "environment_id": environment_id, **fixed, **others}


async def said(driver: Driver, **members: object) -> messages.Reply:
    with await wire.connected(driver.socket) as connection:
        await wire.send(connection, msgspec.msgpack.encode(members))
        return messages.read_reply(await wire.receive(connection, messages.MAX_REPLY_BYTES))


async def running(driver: Driver) -> set[str]:
    found = await Asking(driver.socket).ask(messages.Owned(messages.Labels()), messages.Sandboxes)
    return {sandbox.id for sandbox in found.sandboxes}


async def interpreter(driver: Driver) -> Interpreter:
    await Asking(driver.socket).ask(messages.Prepare(), messages.Done)
    offered = await Asking(driver.socket).ask(messages.Offered(), messages.Interpreters)
    return offered.interpreters[0]


def kept(driver: Driver, source: Path, sha256: str | None = None) -> Path:
    """Where the server's fetcher would have put a file."""
    sha256 = sha256 or hashlib.sha256(source.read_bytes()).hexdigest()
    path = driver.settings.wheels_dir / sha256[:2] / sha256 / source.name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


async def build(driver: Driver, *paths: Path) -> messages.Build:
    """The order for files of the wheel store, as a server makes it."""
    on = await interpreter(driver)
    files = tuple(messages.File(path.name, path.parent.name, path.name.split("-")[0], "1.0") for path in paths)
    locked = tuple(
        LockedFile(file.name, file.version, file.filename, "", file.sha256, None, not file.filename.endswith(".whl"))
        for file in files
    )
    return messages.Build(environment_id(Lock("", {}, locked), on), on.digest, files, BUILD_S)


async def built(driver: Driver, verb: messages.Build) -> None:
    async for _ in Asking(driver.socket).build(verb):
        pass


@pytest.mark.parametrize(
    "others",
    [
        {"mounts": ["/:/host"]},
        {"privileged": True},
        {"image": "kodou-base:bookworm"},
        {"environment_id": "../../../etc"},
        {"network": "host"},
        {"uid": 0},
        {"labels": {"io.kodou.kind": "builder"}},
        {"memory_mb": 1_000_000},
        {"cpus": 1000.0},
        {"cpus": float("nan")},
        {"pids": 1_000_000},
        {"disk_mb": 1_000_000},
        {"network": "egress"},
    ],
    ids=lambda others: next(iter(others.items()))[0],
)
async def test_it_cannot_choose_an_option_of_a_sandbox_nor_exceed_a_maximum(
    driver: Driver, others: dict[str, object]
) -> None:
    before = await running(driver)
    name = "py-bare" if driver.settings.backend == "bubblewrap" else "test-0"
    reply = await said(driver, **{**start(name), **others})
    assert isinstance(reply, messages.Failed)
    assert await running(driver) == before


@pytest.mark.docker
async def test_it_cannot_start_an_image_that_is_not_kodous(docker_base: DockerBase, docker_driver: Driver) -> None:
    name = f"foreign-{secrets.token_hex(6)}"
    docker_base.engine.tag(docker_base.name, "kodou/env", name)
    try:
        with pytest.raises(NotFound):
            await Asking(docker_driver.socket).ask(msgspec.convert(start(name), messages.Start), messages.Made)
    finally:
        docker_base.engine.remove_image(f"kodou/env:{name}")


@pytest.mark.docker
async def test_it_cannot_touch_a_container_of_somebody_else(docker_base: DockerBase, docker_driver: Driver) -> None:
    engine, id = docker_base.engine, secrets.token_hex(16)
    labels = {"io.kodou.kind": "sandbox", "io.kodou.instance": "f" * 16, "io.kodou.sandbox": id}
    labels |= {"io.kodou.environment": "x", "io.kodou.uid": "1", "io.kodou.given": ""}
    host = engine.create_host_config(network_mode="none")
    made = engine.create_container(docker_base.name, "sleep 600", name=f"kodou-{id}", labels=labels, host_config=host)
    try:
        engine.start(made["Id"])
        for name in (id, made["Id"][:32]):
            await Asking(docker_driver.socket).ask(messages.Stop(name, 0.0), messages.Done)
            with pytest.raises(KodouError):
                await Asking(docker_driver.socket).open_link(name)
        assert engine.inspect_container(made["Id"])["State"]["Running"]
    finally:
        engine.remove_container(made["Id"], force=True)


async def test_it_cannot_have_a_file_read_through_the_wheel_store(driver: Driver, tmp_path: Path) -> None:
    """Everything that can be put at a package file's place, short of the file that the hash is of."""
    secret = tmp_path / "secret"
    secret.write_text(f"canary-{secrets.token_hex(8)}")
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()  # even who knows the hash gets no further

    def link_to_a_file(path: Path) -> None:
        path.symlink_to(secret)

    def link_to_a_directory(path: Path) -> None:
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (tmp_path / "elsewhere" / path.name).write_bytes(secret.read_bytes())
        path.parent.rmdir()
        path.parent.symlink_to(tmp_path / "elsewhere")

    def pipe(path: Path) -> None:
        os.mkfifo(path)

    def directory(path: Path) -> None:
        path.mkdir()

    def other_content(path: Path) -> None:
        path.write_text("something else")

    def nothing(path: Path) -> None:
        pass

    for plant in (link_to_a_file, link_to_a_directory, pipe, directory, other_content, nothing):
        path = kept(driver, tmp_path / f"{plant.__name__.replace('_', '')}-1.0-py3-none-any.whl", digest)
        plant(path)
        try:
            with pytest.raises(BuildFailed, match=r"cannot be read|not what its hash says") as refused:
                await asyncio.wait_for(built(driver, await build(driver, path)), BUILD_S)
            assert "canary" not in str(vars(refused.value))
        finally:
            await asyncio.to_thread(subprocess.run, ["rm", "-rf", path.parent], check=True)
    assert "canary" not in driver.log.read_text()


async def test_it_cannot_give_an_environments_name_to_other_packages(driver: Driver, tmp_path: Path) -> None:
    good, evil = wheel(tmp_path, name="good"), wheel(tmp_path, name="evil")
    for source in (good, evil):
        kept(driver, source).write_bytes(source.read_bytes())
    theirs = await build(driver, kept(driver, good))
    forged = msgspec.structs.replace(theirs, files=(await build(driver, kept(driver, evil))).files)
    with pytest.raises(InvalidRequest):
        await built(driver, forged)
    assert (await Asking(driver.socket).ask(messages.Find(theirs.environment_id), messages.Found)).image is None


def test_no_other_user_is_served(driver: Driver) -> None:
    """Not even one for whom the socket is open."""
    code = f"""
import os, socket
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
directory = os.open({str(driver.socket.parent)!r}, os.O_PATH)
with socket.socket(socket.AF_UNIX) as client:
    try:
        client.connect(f"/proc/self/fd/{{directory}}/{driver.socket.name}")
    except PermissionError:
        print("shut")
    else:
        client.settimeout(100)
        print(client.recv(1))
"""
    told = []
    for mode in (0o660, 0o666):
        driver.socket.chmod(mode)
        try:
            done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120)
        finally:
            driver.socket.chmod(0o660)
        told.append(done.stdout.strip() or done.stderr)
    assert told == ["shut", "b''"]


async def test_it_cannot_end_the_driver_with_whatever_it_says(driver: Driver) -> None:
    assert driver.process is not None
    connections = []
    for data in (b"", b"\0\0", b"\xff" * 4, b"\0\0\1\0half", b"\0\0\0\1\xc1", os.urandom(1000)):
        for _ in range(20):
            connection = await wire.connected(driver.socket)
            connections.append(connection)
            if data:
                await asyncio.get_running_loop().sock_sendall(connection, data)
    welcome = await Asking(driver.socket).ask(messages.Hello(), messages.Welcome)
    assert welcome.backend == driver.settings.backend
    for connection in connections:
        connection.close()
    assert driver.process.poll() is None


@pytest.mark.parametrize("how", ["the server goes away", "the driver is killed"])
async def test_a_build_that_is_cut_off_leaves_no_builder(driver: Driver, tmp_path: Path, how: str) -> None:
    slow = sdist(tmp_path, name="slow", at_build="import time; time.sleep(600)")
    path = kept(driver, slow)
    path.write_bytes(slow.read_bytes())
    verb = await build(driver, path)
    connection = await wire.connected(driver.socket)
    try:
        await wire.send(connection, messages.encode(verb))
        assert isinstance(messages.read_reply(await wire.receive(connection, 100_000)), messages.Progress)
        assert builders(driver)
        if how == "the driver is killed":
            await asyncio.to_thread(driver.end, signal.SIGKILL)
            await asyncio.to_thread(driver.start)
    finally:
        connection.close()
    for _ in range(600):
        left = await asyncio.to_thread(builders, driver)
        if not left:
            break
        await asyncio.sleep(0.1)
    assert left == []
    found = await Asking(driver.socket).ask(messages.Find(verb.environment_id), messages.Found)
    assert found.image is None


def builders(driver: Driver) -> list[str]:
    """What is left of builds, of this driver's."""
    data_dir = driver.settings.data_dir
    left = [str(path) for path in (data_dir / "builds").glob("build-*")]
    if driver.settings.backend == "docker":
        instance = (data_dir / "instance").read_text().strip()
        filters = ("--filter", f"label=io.kodou.instance={instance}", "--filter", "label=io.kodou.kind=builder")
        left += subprocess.run(["docker", "ps", "-aq", *filters], capture_output=True, text=True).stdout.split()
        return left
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = command.read_bytes()
            if b"bwrap" in words and str(data_dir).encode() in words and b"builder/boot.py" in words:
                left.append(command.parent.name)
    return left
