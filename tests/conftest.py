"""Fixtures that every suite may use. Engine fixtures live with the suites that need an engine."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


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
