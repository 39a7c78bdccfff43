"""Imports done before the session: what a session finds is what it would find, had it imported by itself."""

import json
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner import frames

from .conftest import Orchestrator, receive

Warm = Callable[..., Orchestrator]


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that tests add distributions to."""
    directory = tmp_path_factory.mktemp("preload") / "env"
    venv.create(directory, symlinks=True)
    return directory / "bin" / "python"


@pytest.fixture
def warm(launch: Callable[..., Orchestrator], interpreter: Path) -> Warm:
    """A runner that takes calls once these distributions, of one module each, have been imported."""
    (packages,) = interpreter.parents[1].glob("lib/python*/site-packages")

    def warm(*, config: dict[str, Any] | None = None, **modules: str) -> Orchestrator:
        for name, code in modules.items():
            (packages / f"{name}.py").write_text(code)
            about = packages / f"the_{name}-1.0.dist-info"
            about.mkdir(exist_ok=True)
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: the-{name}\nVersion: 1.0\n")
            (about / "RECORD").write_text(f"{name}.py,,\n{about.name}/METADATA,,\n")
        orchestrator = launch(str(interpreter))
        orchestrator.accept_control()
        distributions = [f"The_{name}" for name in modules]
        orchestrator.tell(frames.PRELOAD, json.dumps({"distributions": distributions}).encode())
        assert orchestrator.control is not None
        told = receive(orchestrator.control)
        assert told is not None
        assert told.kind == frames.PRELOADED
        assert json.loads(told.body)["bytes"] > 1 << 20
        orchestrator.configure(**(config or {}))
        orchestrator.accept_worker()
        return orchestrator

    return warm


def imported(session: Orchestrator, *names: str) -> list[str]:
    """Which of these the worker has without having asked for them."""
    return [name for name in names if session.value(["sys", "modules", {"name": "__contains__", "args": [name]}])]


def test_imports_are_done_once_for_every_worker(warm: Warm) -> None:
    session = warm(plain="import os\npid, answer = os.getpid(), 42")
    worker = session.value("os.getpid")
    assert imported(session, "plain") == ["plain"]
    assert session.value(["plain", "answer"]) == 42
    assert session.value(["plain", "pid"]) == session.process.pid != worker
    session.tell(frames.RESTART)
    session.accept_worker()
    assert session.value("os.getpid") != worker
    assert session.value(["plain", "pid"]) == session.process.pid


TRACES = {
    "fails": "raise ValueError",
    "leaves": "raise SystemExit",
    "ends": "import os\nos._exit(0)",
    "dies": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "threads": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
    "forks": "import os, time\nif not os.fork():\n    time.sleep(1000)",
    "daemons": "import os, time\nif not os.fork():\n    os.setsid()\n    os.fork() or time.sleep(1000)\n    os._exit(0)\n"
    "os.wait()",
    "handles": "import signal\nsignal.signal(signal.SIGTERM, print)",
    "wraps": "import io, sys\nsys.stdout = io.StringIO()",
}


@pytest.mark.parametrize("name", TRACES)
def test_what_leaves_a_trace_is_left_to_the_worker_and_keeps_nothing_else_from_being_imported(
    warm: Warm, name: str
) -> None:
    session = warm(before="", **{name: TRACES[name]}, behind="")
    assert imported(session, "before", name, "behind") == ["before", "behind"]
    children = Path(f"/proc/{session.process.pid}/task/{session.process.pid}/children").read_text().split()
    assert children == [str(session.value("os.getpid"))]


def test_a_set_that_is_all_unfit_is_given_up(warm: Warm) -> None:
    unfit = {f"unfit{number}": "raise ValueError" for number in range(9)}
    session = warm(fit="", **unfit)
    assert imported(session, "fit", *unfit) == []


def test_what_is_printed_at_import_is_nobodys(warm: Warm) -> None:
    session = warm(printer="import os, sys\nprint('out', end='')\nsys.stderr.write('err')\nos.write(1, b'raw')")
    reply = session.call("builtins.print", "mine")
    assert (reply.body["stdout"], reply.body.get("stderr")) == ("mine\n", None)


def test_a_stream_that_a_module_took_at_its_import_is_captured_with_the_call(warm: Warm) -> None:
    session = warm(keeper="import sys\nkept = sys.stdout")
    assert session.call(["keeper", "kept", {"name": "write", "args": ["late"]}]).body["stdout"] == "late"


def test_variables_are_as_a_session_sets_them_and_as_imports_left_them(warm: Warm) -> None:
    code = (
        "import os\n"
        "seen = os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS']\n"
        "os.environ.update(SET='by import', MINE='by import', MKL_NUM_THREADS='3')"
    )
    session = warm(config={"env": {"MINE": "by session"}}, setter=code)
    assert session.value(["setter", "seen"]) == ["1", "1"]
    found = [session.value("os.environ.get", name) for name in ("SET", "MINE", "OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    assert found == ["by import", "by session", None, "3"]


def test_random_numbers_differ_from_worker_to_worker(warm: Warm) -> None:
    code = "import random, sys, types\nrandom.seed(1)\nnumbers = sys.modules['numpy.random'] = types.ModuleType('n')\n"
    session = warm(seeder=code + "numbers.seeds = []\nnumbers.seed = lambda: numbers.seeds.append(random.random())")
    seen = []
    for _ in range(2):
        seen.append((session.value("random.random"), session.value(["seeder", "numbers", "seeds"])))
        session.tell(frames.RESTART)
        session.accept_worker()
    (first, first_seeds), (second, second_seeds) = seen
    assert first != second
    assert len(first_seeds) == len(second_seeds) == 1
    assert first_seeds != second_seeds


def test_a_module_that_only_bears_numpys_name_does_no_harm(warm: Warm) -> None:
    session = warm(pretender="import sys\nsys.modules['numpy.random'] = sys")
    assert imported(session, "pretender") == ["pretender"]


def test_the_worker_is_an_interpreter_of_its_own(warm: Warm) -> None:
    code = (
        "import os, sys, warnings, __main__\n"
        "main, argv = __main__, list(sys.argv)\n"
        "warnings.simplefilter('error')\n"
        "os.chdir('/proc')"
    )
    session = warm(looker=code)
    assert session.value("builtins.eval", "__import__('looker').main is __import__('__main__')") is True
    assert session.value("builtins.eval", "vars(__import__('__main__')).get('__file__')") is None
    assert session.value(["looker", "argv"]) == session.value("sys.argv") == [""]
    assert session.value("os.getcwd") == "/proc"
    assert session.call("warnings.warn", "x").body["exception"]["type"] == "UserWarning"
    for name, handler in (("SIGTERM", "SIG_DFL"), ("SIGCHLD", "SIG_DFL"), ("SIGINT", "default_int_handler")):
        assert session.value("builtins.eval", f"(s := __import__('signal')).getsignal(s.{name}) == s.{handler}")


def test_threads_and_processes_work_in_the_worker(warm: Warm) -> None:
    session = warm(
        pools="import concurrent.futures.process, concurrent.futures.thread, multiprocessing.pool, threading"
    )
    for pool in ("thread.ThreadPoolExecutor", "process.ProcessPoolExecutor"):
        code = f"sum(__import__('concurrent.futures.{pool.split('.')[0]}').futures.{pool}(2).map(abs, [-1, -2]))"
        assert session.value("builtins.eval", code) == 3


def test_a_distribution_that_is_not_there_is_no_hindrance(warm: Warm, interpreter: Path) -> None:
    session = warm()
    session.find_code()
    assert session.value("abs", -1) == 1
