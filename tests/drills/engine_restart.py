"""Fault 4 with a real engine of its own: it is stopped, or killed, and started again under a server with live sessions.

Without `live-restore` an engine that stops takes its containers along: sessions lose their sandboxes, and get fresh ones.
"""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.drills.at_rest import CGROUPS
from tests.drills.conftest import drilled
from tests.drills.crowds import until
from tests.drills.faults import SOON_S, calling
from tests.servers import BASE_IMAGES, Server, require

GROUP = "kodou-drill-engine"
START_S = 60.0
BACK_S = 60.0


class OwnEngine:
    """A dockerd with everything of its own in `directory`, without networks."""

    def __init__(self, directory: Path) -> None:
        self.url = f"unix://{directory}/docker.sock"
        self._directory = directory
        self.start()

    def start(self) -> None:
        at = self._directory
        for left in ("docker.pid", "exec/containerd/containerd.pid"):  # by one that was killed
            (at / left).unlink(missing_ok=True)
        with (at / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("dockerd", "--host", self.url, "--pidfile", at / "docker.pid"),
                    *("--data-root", at / "data", "--exec-root", at / "exec"),
                    *("--bridge=none", "--iptables=false", "--cgroup-parent", f"/{GROUP}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self.answers, f"the engine to start:\n{(at / 'log').read_text()[-2000:]}", within_s=START_S)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(how)
        self._process.wait(START_S)
        # The engine mounts its data on itself, and one that is killed leaves that mount.
        while subprocess.run(["umount", self._directory / "data"], capture_output=True, timeout=30).returncode == 0:
            pass

    def answers(self) -> bool:
        return subprocess.run(["docker", "-H", self.url, "version"], capture_output=True, timeout=30).returncode == 0

    def take_over(self, image: str) -> None:
        """Copy an image from the machine's engine."""
        saved = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)
        subprocess.run(["docker", "-H", self.url, "load", "--quiet"], stdin=saved.stdout, check=True, timeout=300)
        assert saved.stdout is not None
        saved.stdout.close()
        assert saved.wait(60) == 0

    def containers(self) -> list[str]:
        client = docker.APIClient(self.url)
        try:
            return [each["Id"] for each in client.containers(all=True)]
        finally:
            client.close()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    require("docker")
    engine = OwnEngine(tmp_path_factory.mktemp("dockerd"))
    try:
        engine.take_over(json.loads(BASE_IMAGES)[0])
        yield engine
    finally:
        engine.end()
        # The innermost first, and among them those of containers that died with a killed engine.
        for group in sorted(CGROUPS.glob(f"*/{GROUP}/**/"), reverse=True):
            group.rmdir()


@pytest.fixture(scope="module")
def server(own: OwnEngine) -> Iterator[Server]:
    with drilled("docker", KODOU_DOCKER_URL=own.url, KODOU_REAP_INTERVAL_S="1") as found:
        yield found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_restarted_engine_costs_sessions_their_state_and_nothing_else(
    server: Server, own: OwnEngine, how: signal.Signals
) -> None:
    session, anybody = server.session(), server.bearing()
    with calling(session) as reply:
        own.end(how)
        began = time.monotonic()
        refused = server.client().post("/environment/python/setup", json={})
        assert (refused.status_code, refused.json()["code"]) == (503, "engine_unavailable"), refused.text
        assert time.monotonic() - began < SOON_S
        until(lambda: anybody.get("/readyz").status_code == 503, "/readyz to say so")
        assert anybody.get("/healthz").status_code == 200
        if how is signal.SIGTERM:  # which takes the containers along
            assert reply.result(SOON_S).json()["code"] == "sandbox_lost"
        own.start()
        body = reply.result(2 * BACK_S).json()  # killed, an engine's containers go on, until the next one ends them
    assert body["code"] in ("sandbox_lost", "timeout")
    until(lambda: anybody.get("/readyz").status_code == 200, "/readyz to be ready again", within_s=BACK_S)
    until(lambda: session.post("math.sqrt", 4).json().get("value") == 2.0, "the session to work again", within_s=BACK_S)
    assert server.session("another").value("math.sqrt", 9) == 3.0
    server.kodou("sessions", "stop", "--all")
    until(lambda: not own.containers(), "the engine's containers to go", within_s=BACK_S)
