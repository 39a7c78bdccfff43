"""The runner under every interpreter that it is to run under and that is found on this machine: at least the present one."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner import frames

from .conftest import Orchestrator

OLDEST, NEWEST = 8, 14


def interpreters() -> dict[str, str]:
    """Exact version -> executable."""
    candidates = [sys.executable]
    candidates += [found for minor in range(OLDEST, NEWEST + 1) if (found := shutil.which(f"python3.{minor}"))]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += map(str, sorted(pyenv.glob("3.*/bin/python3")))
    found: dict[str, str] = {}
    for candidate in candidates:
        asked = subprocess.run([candidate, "-I", "--version"], capture_output=True, text=True, check=False)
        version = re.fullmatch(r"Python (3\.(\d+)\.\S+)\n", asked.stdout)
        if version and OLDEST <= int(version[2]) <= NEWEST:
            found.setdefault(version[1], candidate)
    return found


FOUND = interpreters()
CODE = """
import collections, dataclasses, datetime, enum, os, sys

Point = collections.namedtuple("Point", "x y")

@dataclasses.dataclass
class Leaf:
    when: datetime.date

class Colour(enum.Enum):
    RED = "red"

def values():
    print("printed")
    return [Point(1, {2}), Leaf(datetime.date(2020, 1, 2)), Colour.RED, b"a", 1j, 10**5000 % 10**9, float("nan"), "\\ud800"]

def huge():
    return 10**5000

async def later(x):
    return x

async def stream():
    for i in range(3):
        yield i

def deep(levels):
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value

def recurse():
    recurse()

def fail():
    try:
        1 / 0
    except ZeroDivisionError:
        raise ValueError("x")

RAN = []

def annotated(x: int, y: RAN.append("evaluated")) -> str:
    pass

def assigned(x):
    pass

assigned.__annotate__ = lambda format: RAN.append("called") or {}
del RAN[:]  # before Python 3.14 annotations are evaluated where they stand
"""


@pytest.fixture(params=FOUND)
def session(request: pytest.FixtureRequest, launch: Callable[..., Orchestrator], code: Path) -> Orchestrator:
    (code / "user.py").write_text(CODE)
    orchestrator = launch(FOUND[request.param])
    assert orchestrator.accept_control()["python"] == request.param.rstrip("+")
    orchestrator.configure()
    orchestrator.accept_worker()
    orchestrator.find_code()
    return orchestrator


def exception(session: Orchestrator, *call: Any) -> dict[str, str]:
    reply = session.call(*call)
    assert reply.kind == frames.RAISED
    return reply.body["exception"]  # type: ignore[no-any-return]


def test_all_of_a_session(session: Orchestrator) -> None:
    assert session.value([{"moduleName": "math"}, {"name": "sqrt"}], 4) == 2.0
    body = session.call("user.values").body
    assert body["stdout"] == "printed\n"
    assert body["value"] == [
        {"x": 1, "y": [2]},
        {"when": "2020-01-02"},
        "red",
        {"$bytes": "YQ=="},
        [0.0, 1.0],
        0,
        None,
        "\ufffd",
    ]
    assert session.value("user.later", 5) == 5
    assert session.value("user.stream") == [0, 1, 2]
    assert session.call("user.nothing").body["code"] == "attribute_not_found"
    assert session.call("nothing").body["code"] == "name_not_found"
    assert session.value("str", [1, [2]]) == "[1, [2]]"


def test_integers_of_any_size_and_deep_values(session: Orchestrator) -> None:
    session.send(b'{"namepath": "divmod", "args": [' + b"7" * 9000 + b", " + b"7" * 9000 + b"]}")
    assert session.reply().body["value"] == [1, 0]
    assert session.calls is not None
    session.send({"namepath": "user.huge"})
    frame = frames.read(session.calls, max_bytes=1 << 20)
    assert frame is not None
    assert frame.body.startswith(b'{"error":false,"value":1' + b"0" * 5000 + b",")
    value = session.value("user.deep", 900)
    assert session.call("user.deep", 901).body["code"] == "value_not_serializable"
    for _ in range(4):
        (value,) = value  # with the request around it, it is as deep as an argument may be
    assert session.value("list", value) == value
    session.send(b'{"namepath": "len", "args": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}")
    assert session.reply().body["code"] == "invalid_request"


def test_what_is_described_is_not_run(session: Orchestrator) -> None:
    def signature(name: str) -> str:
        session.send({"namepath": name}, kind=frames.DESCRIBE)
        return str(session.reply().body["value"]["signature"])

    told = signature("user.annotated")
    assert told.startswith("(x: int, y: ")
    assert told.endswith(" -> str")
    assert signature("user.assigned") == "(x)"
    assert signature("user.Leaf") == "(when: datetime.date)"
    assert session.value("user.RAN") == []


def test_exceptions(session: Orchestrator, code: Path) -> None:
    raised = exception(session, "user.fail")
    assert (raised["type"], raised["message"]) == ("ValueError", "x")
    files = [line.split('"')[1] for line in raised["traceback"].splitlines() if line.startswith("  File")]
    assert files == [str(code / "user.py")] * 2
    assert "Traceback" in raised["traceback"]
    assert exception(session, "user.recurse")["type"] == "RecursionError"
    assert exception(session, "sys.exit", 1)["type"] == "SystemExit"
    assert "File" not in exception(session, "math.sqrt", -1)["traceback"]


def test_ends(session: Orchestrator) -> None:
    session.send({"namepath": "os._exit", "args": [3]})
    assert session.report() == {"code": 3, "signal": None}
    assert session.accept_worker()["generation"] == 2
    session.tell(frames.RESTART)
    assert session.accept_worker()["generation"] == 3
    session.tell(frames.STOP)
    assert session.process.wait(30) == 0
