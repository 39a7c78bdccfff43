"""Each example runs as it stands, against a real server, on each backend."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import engine_required

pytestmark = pytest.mark.index

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COLLECTION = EXAMPLES / "kodou.postman_collection.json"
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
    others = {COLLECTION.name, "lines.txt", "hypot.binpb", "README.md"}
    assert {path.name for path in EXAMPLES.iterdir()} == {*COMMANDS, *others}


@pytest.mark.parametrize("example", COMMANDS)
def test_example(server: Any, example: str) -> None:
    interpreter, *options = COMMANDS[example]
    out = run([needed(interpreter), *options, str(EXAMPLES / example)], server)
    first, *_, last = (line for line in out.splitlines() if "numpy.array([2, 4, 6]).sum()" in line or "closed" in line)
    assert "12" in first
    assert last == "session closed"
    assert "ValueError" in out
    assert sessions(server) == []


def requests_of(items: list[Any]) -> Iterator[Any]:
    """The requests of a collection, those in folders too."""
    for item in items:
        if "item" in item:
            yield from requests_of(item["item"])
        else:
            yield item["request"]


def test_the_postman_collection_has_each_route(server: Any) -> None:
    """A path of the description is met where each of its segments is the same, or a parameter."""
    document = server.bearing().get("/openapi.json").json()
    routes = {
        (method.upper(), re.sub(r"\{[^}]+\}", "[^/]+", path))
        for path, methods in document["paths"].items()
        for method in methods
    }
    asked = [
        (request["method"], "/" + "/".join(request["url"]["path"]))
        for request in requests_of(json.loads(COLLECTION.read_text())["item"])
    ]
    missing = [
        route
        for route in routes
        if not any(method == route[0] and re.fullmatch(route[1], path) for method, path in asked)
    ]
    assert missing == []


def test_postman_collection(server: Any, newman: Path) -> None:
    variables = {"baseUrl": server.url, "token": server.key("examples")["api_id"]}
    options = [text for name, value in variables.items() for text in ("--env-var", f"{name}={value}")]
    command = [str(newman), "run", str(COLLECTION), "--bail", "--color", "off", "--working-dir", str(EXAMPLES)]
    out = run([*command, *options], server)
    assert "Call numpy.array([2, 4, 6]).sum()" in out
    assert sessions(server) == []
