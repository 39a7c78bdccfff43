"""Faults 5 and 6: a sandbox, its runner or what holds it is killed, stopped or starved from outside.

The call under way ends in one clean error, the session's next call works, and another session notices nothing.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.drills.at_rest import AtRest, at_rest, back_to, engine
from tests.drills.conftest import drilled
from tests.drills.faults import SOON_S, Handle, calling, sandbox_of, sandboxes_of, send
from tests.servers import BACKENDS, Server, Session, require

TIMEOUT_MS = 1500
MARK = 4321
# Touches far more than the sandbox has, a little at a time: no allocation is refused before the kernel kills.
HUNGRY = ("eval", "[bytearray(b'x' * (1 << 20)) for _ in range(1000)]")


@pytest.fixture(scope="module", params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    require(request.param)
    with drilled(request.param) as found:
        found.session("warm").close()
        yield found


@pytest.fixture
def before(server: Server) -> AtRest:
    return at_rest(server)


@pytest.fixture
def session(server: Server, before: AtRest) -> Iterator[Session]:
    """A session to be harmed, beside another whose state must be what it was; in the end, nothing is left of both."""
    witness, harmed = server.session("witness"), server.session("harmed", resources={"memory_mb": 128})
    witness.value("sys.setrecursionlimit", MARK)
    worker = witness.value("os.getpid")
    yield harmed
    assert (witness.value("sys.getrecursionlimit"), witness.value("os.getpid")) == (MARK, worker)
    assert len(sandboxes_of(server, harmed)) == 1
    for each in (witness, harmed):
        each.close()
    back_to(before, server)


def kill_supervisor(sandbox: Handle) -> None:
    send([sandbox.supervisor], signal.SIGKILL)


def kill_worker(sandbox: Handle) -> None:
    send(sandbox.workers, signal.SIGKILL)


def stop_supervisor(sandbox: Handle) -> None:
    send([sandbox.supervisor], signal.SIGSTOP)


def stop_worker(sandbox: Handle) -> None:
    send(sandbox.workers, signal.SIGSTOP)


def stop_everything(sandbox: Handle) -> None:
    """As a freezer does: `docker pause`, and the signal where there is no engine."""
    if sandbox.container is None:
        send(sandbox.everything(), signal.SIGSTOP)
        return
    with engine() as client:
        client.pause(sandbox.container)


def kill_container(sandbox: Handle) -> None:
    with engine() as client:
        client.kill(sandbox.container)


def remove_container(sandbox: Handle) -> None:
    with engine() as client:
        client.remove_container(sandbox.container, force=True)


def kill_shim(sandbox: Handle) -> None:
    """The process between the engine and the container; the engine may go on saying that the container runs."""
    os.kill(_shim(sandbox), signal.SIGKILL)


def _shim(sandbox: Handle) -> int:
    parent = int(Path(f"/proc/{sandbox.supervisor}/stat").read_text().rpartition(")")[2].split()[1])
    assert "containerd-shim" in Path(f"/proc/{parent}/cmdline").read_text()
    assert str(sandbox.container) in Path(f"/proc/{parent}/cmdline").read_text()
    return parent


@pytest.mark.parametrize(
    ("harm", "code"), [(kill_supervisor, "sandbox_lost"), (kill_worker, "worker_died")], ids=["supervisor", "worker"]
)
def test_a_killed_runner_ends_the_call_at_once_and_the_next_one_works(
    server: Server, session: Session, harm: Callable[[Handle], None], code: str
) -> None:
    with calling(session) as reply:
        harm(sandbox_of(server, session))
        body = reply.result(SOON_S).json()
    assert (body["error"], body["code"], body["restarted"]) == (True, code, True)
    assert session.value("math.sqrt", 4) == 2.0


@pytest.mark.parametrize("harm", [kill_supervisor, kill_worker], ids=["supervisor", "worker"])
def test_a_runner_killed_between_calls_is_replaced_by_the_next(
    server: Server, session: Session, harm: Callable[[Handle], None]
) -> None:
    harm(sandbox_of(server, session))
    until = time.monotonic() + SOON_S
    # A call that meets the fault itself may end with it; those after it may not.
    while session.post("math.sqrt", 4).json().get("value") != 2.0:
        assert time.monotonic() < until
    assert session.value("math.sqrt", 9) == 3.0


def test_a_runner_killed_for_want_of_memory_ends_the_call_and_the_next_one_works(
    server: Server, session: Session
) -> None:
    body = session.post(*HUNGRY).json()
    assert (body["error"], body["restarted"]) == (True, True), body
    assert body["code"] in ("worker_died", "sandbox_lost")
    assert session.value("math.sqrt", 4) == 2.0


@pytest.mark.parametrize(
    "harm", [stop_worker, stop_supervisor, stop_everything], ids=["worker", "supervisor", "everything"]
)
def test_a_stopped_runner_ends_the_call_at_its_timeout_and_the_next_one_works(
    server: Server, session: Session, harm: Callable[[Handle], None]
) -> None:
    with calling(session, timeout=TIMEOUT_MS) as reply:
        harm(sandbox_of(server, session))
        body = reply.result(SOON_S).json()
    assert (body["error"], body["code"], body["restarted"]) == (True, "timeout", True)
    assert session.value("math.sqrt", 4) == 2.0


@pytest.mark.parametrize("server", [BACKENDS[1]], indirect=True)
@pytest.mark.parametrize("harm", [kill_container, remove_container, kill_shim], ids=["killed", "removed", "shim"])
def test_a_container_that_is_killed_or_removed_or_loses_its_shim_ends_the_call_at_once_and_the_next_one_works(
    server: Server, session: Session, harm: Callable[[Handle], None]
) -> None:
    with calling(session) as reply:
        harm(sandbox_of(server, session))
        body = reply.result(SOON_S).json()
    assert (body["error"], body["code"], body["restarted"]) == (True, "sandbox_lost", True)
    assert session.value("math.sqrt", 4) == 2.0
