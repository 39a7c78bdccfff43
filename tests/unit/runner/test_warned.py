"""Warnings with a line of the runner's as their place, through a real worker: hooks and what was shown are the process's own."""

from pathlib import Path

from .conftest import Orchestrator

DIVISION = "RuntimeWarning: divide by zero encountered in log\n"


def stderr(session: Orchestrator, namepath: object, *args: object) -> object:
    return session.call(namepath, *args).body.get("stderr")


def test_a_warning_is_shown_without_the_line_of_ours_that_called(session: Orchestrator) -> None:
    assert stderr(session, "numpy.log", 0) == DIVISION


def test_each_call_shows_its_warnings_again(session: Orchestrator) -> None:
    assert [stderr(session, "numpy.log", 0) for _ in range(3)] == [DIVISION] * 3
    for _ in range(2):
        session.send({"namepath": ["numpy", {"name": "log", "args": [0]}, {"name": "item"}], "args": []})
        assert session.reply().body["stderr"] == DIVISION


def test_a_warning_in_code_of_the_users_is_shown_with_its_place(session: Orchestrator, code: Path) -> None:
    (code / "warning.py").write_text("import numpy\ndef log():\n    return numpy.log(0)\n")
    shown = f"{code}/warning.py:3: {DIVISION}  return numpy.log(0)\n"
    assert stderr(session, "warning.log") == shown


def test_hooks_of_the_users_are_left_alone(session: Orchestrator, code: Path) -> None:
    (code / "hooks.py").write_text(
        "import sys, warnings\n"
        "def own(message, category, filename, lineno, line=None):\n    return f'own {category.__name__}'\n"
        "def show(message, category, *rest):\n    sys.stderr.write(f'shown {message}')\n"
        "def set_format():\n    warnings.formatwarning = own\n"
        "def set_show():\n    warnings.showwarning = show\n"
        "set_format()\n"
    )
    session.value("hooks.set_format")
    assert stderr(session, "numpy.log", 0) == "own RuntimeWarning"
    session.value("hooks.set_show")
    assert stderr(session, "numpy.log", 0) == "shown divide by zero encountered in log"


def test_hooks_that_are_set_later_are_left_alone_too(session: Orchestrator, code: Path) -> None:
    (code / "hooks.py").write_text(
        "import warnings\ndef set_format():\n    warnings.formatwarning = lambda *rest: 'own'\n"
    )
    assert stderr(session, "numpy.log", 0) == DIVISION
    session.value("hooks.set_format")
    assert stderr(session, "numpy.log", 0) == "own"
