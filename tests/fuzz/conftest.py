"""A real server to send rubbish to. It knows a package index of its own only: made-up names are asked for nowhere else."""

import functools
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.made_index import made_index
from tests.made_packages import wheel
from tests.servers import Server, require, running

# So that every few setups a session is free again, and no call holds things up.
SETTINGS = {
    "KODOU_SESSION_TTL_S": "3",
    "KODOU_REAP_INTERVAL_S": "1",
    "KODOU_CALL_TIMEOUT_MS": "1000",
    "KODOU_MAX_CALL_TIMEOUT_MS": "1000",
    "KODOU_ALLOW_SOURCE_BUILDS": "0",
    "KODOU_SETUPS_PER_S": "1000",
    "KODOU_BURST_SETUPS": "100000",
    "KODOU_FAILURES_PER_S": "10000",
    "KODOU_BURST_FAILURES": "1000000",
    "KODOU_HEADER_TIMEOUT_S": "2",
    "KODOU_BODY_TIMEOUT_S": "2",
}
_REQUESTS = re.compile(r"^kodou_http_requests_total\{(.*)\} ([0-9.e+]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def fuzz_seconds(short: int) -> int:
    """How long a target may run: short in CI, as `scripts/fuzz` says else."""
    return int(os.environ.get("KODOU_FUZZ_SECONDS", short))


def is_long() -> bool:
    return "KODOU_FUZZ_SECONDS" in os.environ


@pytest.fixture(scope="session")
def fuzzed() -> Iterator[Server]:
    """The HTTP edge is the same on every backend; this one starts sandboxes fastest."""
    require("bubblewrap")
    names = ("tiny", "numpy", "requests")  # those of the description's examples too
    wheels = [functools.partial(wheel, name=name, version="3.0") for name in names]
    with (
        tempfile.TemporaryDirectory() as directory,
        made_index(Path(directory), *wheels) as index,
        running("bubblewrap", **SETTINGS, KODOU_INDEX_URL=index.url) as server,
    ):
        yield server


def counted(server: Server) -> dict[tuple[str, str, str], int]:
    """How many requests the server has answered, by method, route and status."""
    found = {}
    for labels, count in _REQUESTS.findall(httpx.get(f"{server.url}/metrics").text):
        named = dict(_LABEL.findall(labels))
        found[named["method"], named["route"], named["status"]] = int(float(count))
    return found


def defects(server: Server) -> str:
    """What the server's log tells of errors that are its own."""
    return "\n".join(line for line in server.log.read_text().splitlines() if '"level": "error"' in line)[-10_000:]
