"""The real runner as process 1 of a PID namespace, as it is in every sandbox."""

import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from runner import frames

from tests.conftest import engine_required

from .conftest import PATIENCE_S, Orchestrator
from .test_supervisor import ends, held

pytestmark = [
    pytest.mark.bubblewrap,
    pytest.mark.skipif(not shutil.which("bwrap") and not engine_required(), reason="bubblewrap is not installed"),
]
BWRAP = ("bwrap", "--unshare-pid", "--as-pid-1", "--die-with-parent", "--dev-bind", "/", "/", "--proc", "/proc")
CODE = textwrap.dedent("""
    import os, time

    def daemons(path, count):
        '''So many processes that leave their session and their parent, and hold `path` open.'''
        for _ in range(count):
            ready, told = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.open(path, os.O_WRONLY)
                    os.write(told, b"x")
                    while True:
                        time.sleep(1000)
                os._exit(0)
            os.wait()
            os.read(ready, 1)

    def processes():
        return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
""")


@pytest.fixture
def user(launch: Callable[..., Orchestrator], code: Path) -> Orchestrator:
    (code / "user.py").write_text(CODE)
    return launch(*BWRAP, sys.executable).start()


def test_restart_leaves_nobody_but_the_supervisor_and_a_fresh_worker(
    user: Orchestrator, leash: tuple[Path, int]
) -> None:
    path, descriptor = leash
    user.value("user.daemons", str(path), 20)
    assert len(user.value("user.processes")) == 22
    assert held(descriptor)
    user.tell(frames.RESTART)
    assert user.accept_worker()["generation"] == 2
    assert ends(descriptor)
    user.find_code()
    one, worker = user.value("user.processes")
    assert (one, worker) == (1, user.value("os.getpid"))


def test_a_worker_that_ends_takes_all_that_it_started_with_it(user: Orchestrator, leash: tuple[Path, int]) -> None:
    path, descriptor = leash
    user.value("user.daemons", str(path), 3)
    user.send({"namepath": "os._exit", "args": [5]})
    assert user.report() == {"code": 5, "signal": None}
    assert ends(descriptor)
    assert user.accept_worker()["generation"] == 2


@pytest.mark.parametrize(
    "name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "SIGSTOP", "SIGSEGV", "SIGCHLD", "SIGALRM", "SIGPIPE"]
)
def test_signals_from_inside_do_nothing_to_it(user: Orchestrator, name: str) -> None:
    user.value("builtins.eval", f"__import__('os').kill(1, __import__('signal').{name})")
    user.tell(frames.RESTART)
    assert user.accept_worker()["generation"] == 2


def test_user_code_cannot_look_into_it(launch: Callable[..., Orchestrator]) -> None:
    session = launch(*BWRAP, "--unshare-user", "--uid", "65534", "--gid", "65534", sys.executable).start()
    for path in ("/proc/1/mem", "/proc/1/environ"):
        assert session.call("builtins.open", path).body["exception"]["type"] == "PermissionError"
    assert session.call("os.readlink", "/proc/1/fd/0").body["exception"]["type"] == "PermissionError"
    # Its own is open to it, as to any process.
    assert session.call([{"name": "open", "args": ["/proc/self/environ"]}, "read"]).kind == frames.VALUE


def test_stop_ends_it(user: Orchestrator) -> None:
    user.tell(frames.STOP)
    assert user.process.wait(PATIENCE_S) == 0
    assert user.call_ends()
