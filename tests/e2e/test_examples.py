"""Each example runs as it stands, against a real server, on each backend."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import engine_required

pytestmark = pytest.mark.index

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NEWMAN = "6.2.2"  # works from Node 16 on
CACHE = Path(os.environ.get("KODOU_CACHE_DIR", "~/.cache/kodou")).expanduser()
TIMEOUT_S = 240.0
COMMANDS = {
    "curl.sh": ["sh"],
    "python_requests.py": [sys.executable],
    "javascript.mjs": ["node"],
    "sdk.py": [sys.executable],
}


def needed(program: str) -> str:
    """Its path. Missing, it fails the suite where engines are required, and skips the test elsewhere."""
    found = shutil.which(program)
    if found is None:
        reason = f"{program} is not installed"
        pytest.fail(reason) if engine_required() else pytest.skip(reason)
    return found


def run(command: list[str], server: Any, **environment: str) -> str:
    """What a command prints that is given the server and a key as the examples say."""
    token = server.key("examples")["api_id"]
    done = subprocess.run(
        command,
        env={**os.environ, "KODOU_URL": server.url, "KODOU_TOKEN": token, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sessions(server: Any) -> list[Any]:
    return list(server.client("examples").get("/session").json()["sessions"])


@pytest.fixture(scope="session")
def newman() -> Path:
    """Postman's runner, from npm, kept for the next run."""
    npm = needed("npm")
    place = CACHE / f"newman-{NEWMAN}"
    place.mkdir(parents=True, exist_ok=True)
    program = place / "node_modules" / ".bin" / "newman"
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = place / ".installed"
        if not done.exists():
            options = ["--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(place)]
            subprocess.run([npm, "install", *options, f"newman@{NEWMAN}"], check=True, timeout=TIMEOUT_S)
            done.touch()
    return program


def test_every_example_is_run_here() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {*COMMANDS, "kodou.postman_collection.json", "README.md"}


@pytest.mark.parametrize("example", COMMANDS)
def test_example(server: Any, example: str) -> None:
    interpreter, *options = COMMANDS[example]
    out = run([needed(interpreter), *options, str(EXAMPLES / example)], server)
    first, *_, last = (line for line in out.splitlines() if "numpy.array([2, 4, 6]).sum()" in line or "closed" in line)
    assert "12" in first
    assert last == "session closed"
    assert "ValueError" in out
    assert sessions(server) == []


def test_postman_collection(server: Any, newman: Path) -> None:
    variables = {"baseUrl": server.url, "token": server.key("examples")["api_id"]}
    options = [text for name, value in variables.items() for text in ("--env-var", f"{name}={value}")]
    collection = EXAMPLES / "kodou.postman_collection.json"
    out = run([str(newman), "run", str(collection), "--bail", "--color", "off", *options], server)
    assert "Call numpy.array([2, 4, 6]).sum()" in out
    assert sessions(server) == []
