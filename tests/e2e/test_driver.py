"""The engine apart: the process that serves HTTP has no rights and no engine, a driver beside it has; either may die."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.driver.apart import apart as engine_apart
from orchestrator.settings import Settings
from tests.drills.crowds import until
from tests.driver_fixtures import Driver, driving
from tests.e2e.packages import PACKAGES
from tests.servers import BACKENDS, BASE_IMAGES, KODOU, REPLY_S, Server, clear_engine, require

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives up rights that only root has")
UID = 1_990_000  # nobody's
WHEEL, SOURCE = PACKAGES[-2:]
DOCKER_SOCKET = "/var/run/docker.sock"

# What the process may still do is read: the checkout and its interpreter may lie where only root comes in. Reading is not
# enough for a socket, which has to be written to.
WITHOUT_RIGHTS = (
    *("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--no-new-privs"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"),
)


class ServerWithoutRights(Server):
    """Commands for its data directory run as its user too."""

    def kodou(self, *arguments: str) -> str:
        command = [*WITHOUT_RIGHTS, KODOU, *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=REPLY_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _key(self, owner: str, **options: Any) -> dict[str, Any]:
        assert not options
        return dict(json.loads(self.kodou("keys", "create", owner, "--json")))


@dataclass
class Apart:
    """A driver that is root, and a server that is not."""

    driver: Driver
    server: ServerWithoutRights


@pytest.fixture(scope="module", params=BACKENDS)
def apart(request: pytest.FixtureRequest) -> Iterator[Apart]:
    require(request.param)
    root = Path(tempfile.mkdtemp(prefix="kodou-e2e-driver-"))
    root.chmod(0o711)
    data_dir = root / "server"
    data_dir.mkdir(mode=0o711)
    os.chown(data_dir, UID, UID)
    settings = Settings(
        data_dir=root / "driver", backend=request.param, driver_socket=root / "socket", wheels_dir=data_dir / "wheels"
    )
    common = {"KODOU_BASE_IMAGES": json.dumps(json.loads(BASE_IMAGES)[:1]), "KODOU_ORPHAN_S": "300"}
    try:
        with driving(settings, **common, KODOU_DRIVER_USERS=f'["{UID}"]') as driver:
            environment = {**common, "KODOU_DRIVER_SOCKET": str(driver.socket), "KODOU_LOG_FORMAT": "json"}
            server = ServerWithoutRights(request.param, data_dir, environment, WITHOUT_RIGHTS)
            try:
                yield Apart(driver, server)
                server.kodou("sessions", "stop", "--all")
                if request.param == "docker":
                    server.kodou("images", "prune", "--all", "--yes")
            finally:
                server.stop()
                if request.param == "docker":
                    clear_engine(settings.data_dir)
    finally:
        shutil.rmtree(root)


def until_set_up(server: Server, within_s: float = 200.0) -> None:
    """A driver that has just come back finds its interpreters first."""
    deadline = time.monotonic() + within_s
    client = server.client()
    while (reply := client.post("/environment/python/setup", content="{}")).status_code != 200:
        assert (reply.status_code, reply.json()["code"]) == (503, "engine_unavailable")
        assert int(reply.headers["retry-after"]) >= 1
        assert time.monotonic() < deadline, reply.text
        time.sleep(0.2)


def test_a_server_without_rights_and_without_the_engine_serves(apart: Apart) -> None:
    status = Path(f"/proc/{apart.server.process.pid}/status").read_text()
    assert f"Uid:\t{UID}\t{UID}\t{UID}\t{UID}\n" in status
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({DOCKER_SOCKET!r})"
    tried = subprocess.run([*WITHOUT_RIGHTS, sys.executable, "-c", connect], capture_output=True, text=True)
    assert "PermissionError" in tried.stderr or not Path(DOCKER_SOCKET).exists()
    session = apart.server.session()
    assert session.value("math.sqrt", 16) == 4
    assert session.value("os.getuid") != UID
    session.close()
    assert session.post("math.sqrt", 4).status_code == 404


def test_the_server_makes_nothing_in_the_drivers_data_directory_nor_it_in_the_servers(apart: Apart) -> None:
    apart.server.session().close()
    assert not (apart.server.data_dir / "run").exists()
    for path in apart.driver.settings.data_dir.iterdir():
        assert path.stat().st_uid == 0, path


def test_doctor_tells_whether_the_server_reaches_the_engine_by_itself(apart: Apart) -> None:
    done = subprocess.run(
        [*WITHOUT_RIGHTS, KODOU, "doctor"],
        env=apart.server.environment,
        capture_output=True,
        text=True,
        timeout=REPLY_S,
    )
    assert "ok  engine apart" in done.stdout, done.stdout + done.stderr
    as_root = asyncio.run(engine_apart(apart.driver.settings))
    assert not as_root.held
    assert "this user is root" in as_root.detail


def test_packages_fetched_by_the_server_are_installed_by_the_driver(apart: Apart) -> None:
    # From source on one of the two: there the driver resolves as well, and lets the builder reach the index.
    package = SOURCE if apart.server.backend == "docker" else WHEEL
    session = apart.server.session(dependencies=[package.dependency])
    assert session.value(package.namepath, *package.args) == package.value
    assert session.setup["environment"]["id"] in apart.server.kodou("images", "list", "--json")
    session.close()


def test_calls_go_on_while_the_driver_is_dead_and_setups_are_told_to_come_again(apart: Apart) -> None:
    session = apart.server.session()
    session.value("sys.setrecursionlimit", 4321)
    answers: list[object] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            answers.append(session.call("sys.getrecursionlimit").get("value"))

    caller = threading.Thread(target=load)
    caller.start()
    try:
        apart.driver.end(signal.SIGKILL)
        refused = apart.server.client().post("/environment/python/setup", content="{}")
        assert (refused.status_code, refused.json()["code"]) == (503, "engine_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert str(apart.driver.socket) not in refused.text
        before = len(answers)
        assert [session.value("math.sqrt", 4) for _ in range(20)] == [2.0] * 20
        until(lambda: len(answers) > before, "the other to be answered")
    finally:
        apart.driver.start()
        stop.set()
        caller.join(REPLY_S)
    assert set(answers) == {4321}
    until_set_up(apart.server)
    assert session.value("sys.getrecursionlimit") == 4321
    session.close()
    assert session.post("math.sqrt", 4).status_code == 404


def test_a_server_that_was_killed_takes_up_its_sessions_from_the_driver(apart: Apart) -> None:
    session = apart.server.session()
    worker = session.value("os.getpid")
    apart.server.kill()
    apart.driver.end(signal.SIGKILL)  # and nothing that either remembered is left
    apart.driver.start()
    apart.server.start()
    assert session.value("os.getpid") == worker
    session.close()
