"""What a composition that fails leaves behind: nothing that it started. Alone, and as process 1 of a PID namespace."""

import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner import frames

from tests.conftest import engine_required

from .conftest import Orchestrator
from .test_process_one import BWRAP
from .test_supervisor import ends, held

NAMESPACE = pytest.param(
    BWRAP,
    marks=[
        pytest.mark.bubblewrap,
        pytest.mark.skipif(not shutil.which("bwrap") and not engine_required(), reason="bubblewrap is not installed"),
    ],
)
CODE = textwrap.dedent("""
    import os, time

    def child(path):
        '''A child that holds `path` open.'''
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            hold(path, told)
        os.read(ready, 1)
        return pid

    def daemon(path):
        '''The same, and it has left its session and its parent.'''
        ready, told = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                hold(path, told)
            os._exit(0)
        os.wait()
        os.read(ready, 1)
        return 0

    def hold(path, told):
        os.open(path, os.O_WRONLY)
        os.write(told, b"x")
        while True:
            time.sleep(1000)

    def twice():
        return os.fork()

    def leave_a_mark(path, pid):
        if pid:
            os.waitpid(pid, 0)
        with open(path, "a") as file:
            file.write("parent" if pid else "child")

    def fork_at_first(path, item):
        if item == 0:
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
            return
        with open(path, "a") as file:
            file.write(str(item))
""")


@pytest.fixture(params=[(), NAMESPACE], ids=["process", "namespace"])
def user(request: pytest.FixtureRequest, launch: Callable[..., Orchestrator], code: Path) -> Orchestrator:
    (code / "user.py").write_text(CODE)
    command = [*request.param, sys.executable] if request.param else []
    return launch(*command).start()


def compose(user: Orchestrator, **members: Any) -> Any:
    user.send(members, kind=frames.COMPOSE)
    return user.reply()


@pytest.mark.parametrize("started", ["user.child", "user.daemon"])
@pytest.mark.parametrize(
    ("last", "kind"),
    [("math.log", frames.RAISED), ("math.nothing", frames.REFUSED), ("object", frames.RAISED), ("iter", frames.RAISED)],
)
def test_a_composition_that_fails_leaves_no_process(
    user: Orchestrator, leash: tuple[Path, int], started: str, last: str, kind: int
) -> None:
    path, descriptor = leash
    pipeline = [started, [{"name": "min", "args": [0]}], last]
    assert compose(user, args=[str(path)], pipeline=pipeline).kind == kind
    assert ends(descriptor)
    assert user.value("math.sqrt", 4) == 2


def test_a_last_value_without_a_form_leaves_no_process(user: Orchestrator, leash: tuple[Path, int]) -> None:
    path, descriptor = leash
    reply = compose(user, args=[str(path)], pipeline=["user.daemon", "type"])
    assert reply.body["code"] == "value_not_serializable"
    assert ends(descriptor)


def test_processes_of_earlier_calls_and_of_compositions_that_succeed_go_on(
    user: Orchestrator, leash: tuple[Path, int]
) -> None:
    path, descriptor = leash
    assert compose(user, args=[str(path)], pipeline=["user.daemon", "str"]).kind == frames.VALUE
    assert compose(user, args=["x"], pipeline=["str.upper", "math.sqrt"]).kind == frames.RAISED
    assert held(descriptor)


def test_a_process_that_a_stage_forked_runs_no_further_stage(user: Orchestrator, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    reply = compose(user, pipeline=["user.twice", ["user", {"name": "leave_a_mark", "args": [str(mark)]}]])
    assert reply.kind == frames.VALUE
    assert mark.read_text() == "parent"


def test_a_process_that_an_item_forked_works_on_no_further_item(user: Orchestrator, tmp_path: Path) -> None:
    function = ["user", {"name": "fork_at_first", "args": [str(tmp_path / "mark")]}]
    reply = compose(user, listop={"op": "map", "function": function, "list": [0, 1, 2]})
    assert reply.kind == frames.VALUE
    assert (tmp_path / "mark").read_text() == "12"
