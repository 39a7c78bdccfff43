"""Fixtures that every suite may use. Engine fixtures live with the suites that need an engine."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.bubblewrap_fixtures", "tests.docker_fixtures", "tests.driver_fixtures"]

# How long an example takes tells of the machine only, and so does how long it takes to make one. CI, whose profile is the
# default there, runs the same examples each time; it needs fewer of them. `scripts/fuzz` looks for others each time.
_HURRIED = bool(os.environ.get("CI"))
_SEARCHING = "KODOU_FUZZ_SECONDS" in os.environ
settings.register_profile(
    "kodou",
    deadline=None,
    max_examples=50 if _HURRIED else 100,
    derandomize=_HURRIED and not _SEARCHING,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("kodou")

# As the server writes them: the default, with the locals of each frame, takes seconds for one traceback.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def open_tmp_path() -> Iterator[Path]:
    """A temporary directory that unprivileged user ids may traverse (pytest's own is 0700)."""
    path = Path(tempfile.mkdtemp(prefix="kodou-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def engine_required() -> bool:
    """In CI a missing engine fails the suite; on a laptop it skips it."""
    return bool(os.environ.get("CI") or os.environ.get("KODOU_TEST_ENGINES") == "required")


# The files that take longest, first: else the last worker would still be at one of them when the others are done.
_LONG = (
    "e2e/test_cli.py",
    "drills/test_crashes.py",
    "contract/test_backend.py",
    "e2e/test_demo.py",
    "drills/test_shutdown.py",
    "drills/test_clock.py",
    "security/test_egress.py",
    "fuzz/test_api.py",
    "drills/test_restarts.py",
    "e2e/test_restart.py",
    "drills/test_limits.py",
    "drills/test_churn.py",
    "drills/test_load.py",
    "e2e/test_sessions.py",
    "e2e/test_setup.py",
    "e2e/test_errors.py",
    "e2e/test_driver.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: ranks.get("/".join(item.path.parts[-2:]), len(ranks)))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where engines are required, a skipped test is a failure: a suite must not look green for having done nothing."""
    if not engine_required() or exitstatus != pytest.ExitCode.OK:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped"):
        reporter.write_line("engines are required, yet tests were skipped: this run fails", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
