"""A real driver in a process of its own, for the suites that ask it for something."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.settings import Settings
from tests.bubblewrap_fixtures import BubblewrapData
from tests.docker_fixtures import DockerBase, docker_settings

KODOU = Path(sys.executable).with_name("kodou")
START_S = 120.0
STOP_S = 120.0


@dataclass
class Driver:
    """A `kodou driver`; `settings` are its own. It can be ended and started again."""

    settings: Settings
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def socket(self) -> Path:
        assert self.settings.driver_socket is not None
        return self.settings.driver_socket

    @property
    def log(self) -> Path:
        return self.settings.data_dir / "driver.log"

    def start(self) -> None:
        """Returns once it listens."""
        self.settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.log.touch()
        before = self.log.stat().st_size
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [KODOU, "driver", "--backend", self.settings.backend, "--socket", self.socket],
                env={**os.environ, "KODOU_LOG_FORMAT": "json", **_variables(self.settings), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + START_S
        while b"driver_listens" not in self.log.read_bytes()[before:]:
            if self.process.poll() is not None or time.monotonic() > until:
                self.end(signal.SIGKILL)
                pytest.fail(f"the driver did not start:\n{self.log.read_text()[-5000:]}")
            time.sleep(0.02)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code. It has ended by itself: fine."""
        assert self.process is not None
        self.process.send_signal(how)
        try:
            return self.process.wait(STOP_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()


@contextmanager
def driving(settings: Settings, **environment: str) -> Iterator[Driver]:
    """A driver that runs until the block is left, with these settings and further variables."""
    driver = Driver(settings, environment)
    driver.start()
    try:
        yield driver
    finally:
        driver.end()


@pytest.fixture(scope="session")
def bubblewrap_driver(bubblewrap_data: BubblewrapData) -> Iterator[Driver]:
    """One for all tests; over the data directory that has an image in it."""
    settings = bubblewrap_data.settings
    with driving(settings.model_copy(update={"driver_socket": settings.data_dir / "driver" / "socket"})) as driver:
        yield driver


@pytest.fixture(scope="session")
def docker_driver(docker_base: DockerBase) -> Iterator[Driver]:
    """One for all tests."""
    root = Path(tempfile.mkdtemp(prefix="kodou-test-driver-"))
    root.chmod(0o711)  # sandboxes' user ids pass through
    try:
        with driving(docker_settings(root / "data", docker_base.name, driver_socket=root / "socket")) as driver:
            yield driver
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _variables(settings: Settings) -> dict[str, str]:
    """The settings that differ from the defaults, as a process is told them."""
    told = settings.model_dump(mode="json", exclude_unset=True, exclude={"backend", "driver_socket"})
    return {
        f"KODOU_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in told.items()
        if value is not None
    }
