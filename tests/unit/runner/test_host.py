"""Process 1 of a shared sandbox, as far as it forks nothing. The rest is tested in `tests/security/test_shared_sandboxes.py`."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner import frames
from runner.host import Host

PATIENCE_S = 30
SLOT = "5" * 32


def shared_memory() -> set[str]:
    """Mappings of this process that those it forks would write to as well."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line for line in lines if line.split()[1].endswith("s")}


@pytest.fixture
def before() -> set[str]:
    return shared_memory()


@pytest.fixture
def ends() -> Iterator[tuple[Host, socket.socket]]:
    """Process 1, and the other end of its connection."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    host = Host("/run/kodou/s", theirs)
    yield host, ours
    ours.close()
    theirs.close()
    os.close(host._awake)
    os.close(host._waker)


@pytest.mark.usefixtures("before", "ends")
def test_process_1_has_no_memory_that_its_sessions_would_share(before: set[str]) -> None:
    assert shared_memory() <= before


def test_a_slot_that_never_was_is_removed_at_once(ends: tuple[Host, socket.socket]) -> None:
    host, ours = ends
    for _ in range(2):
        host._handle(frames.Frame(frames.REMOVE, 0, 0, json.dumps({"slot": SLOT}).encode(), b""))
        answer = frames.read(ours, max_bytes=1000)
        assert answer is not None
        assert answer.kind == frames.REMOVED
        assert json.loads(answer.body) == {"slot": SLOT, "clean": True}
    assert not host._leaving
    assert not host._clearing
