"""Landlock under every interpreter that is found here: what is not named is refused, also to what is started behind it."""

import os
import secrets
import socket
import subprocess
from pathlib import Path

import pytest
from runner import landlock

from tests.unit.runner.test_interpreters import FOUND

pytestmark = pytest.mark.skipif(landlock.abi() < landlock.LEAST_ABI, reason="this kernel has no Landlock that serves")
SCRIPT = Path(landlock.__file__)
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc", "/dev", "/proc")


@pytest.fixture(params=FOUND)
def interpreter(request: pytest.FixtureRequest) -> str:
    return FOUND[request.param]


def behind(
    interpreter: str, command: list[str], *, read: list[str], write: list[str]
) -> subprocess.CompletedProcess[str]:
    rules = [*(f"read={path}" for path in read), *(f"write={path}" for path in write)]
    words = [interpreter, "-I", "-S", str(SCRIPT), *rules, "--", *command]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def system() -> list[str]:
    return [path for path in SYSTEM if os.path.exists(path)]  # noqa: PTH110


def test_what_is_named_can_be_used_and_nothing_else(interpreter: str, tmp_path: Path) -> None:
    named, other = tmp_path / "named", tmp_path / "other"
    for directory in (named, other):
        directory.mkdir()
        (directory / "file").write_text("text")
    script = """
    cat "$1/file" && echo more >> "$1/new" && mkdir "$1/d" && mv "$1/new" "$1/d/moved" && rm "$1/d/moved" && echo done
    cat "$2/file" || echo unread
    echo x > "$2/new" || echo unwritten
    rm "$2/file" || echo unremoved
    ln "$2/file" "$1/link" || echo unlinked
    echo x > /dev/null && ls / > /dev/null && echo seen
    """
    done = behind(
        interpreter, ["/bin/sh", "-c", script, "sh", str(named), str(other)], read=system(), write=[str(named)]
    )
    assert done.stdout.replace("text", "text\n").split() == [
        *("text", "done", "unread", "unwritten", "unremoved", "unlinked", "seen")
    ], done


def test_reading_is_no_right_to_write(interpreter: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    script = 'cat "$1/file" && echo x > "$1/new" || echo unwritten; true > "$1/file" || echo uncut'
    done = behind(
        interpreter, ["/bin/sh", "-c", script, "sh", str(tmp_path)], read=[*system(), str(tmp_path)], write=[]
    )
    assert done.stdout == "textunwritten\nuncut\n"


@pytest.mark.skipif(landlock.abi() < landlock.SCOPES_SINCE, reason="this kernel's Landlock has no scopes")
def test_nobody_outside_can_be_signalled_or_reached_by_an_abstract_socket(interpreter: str) -> None:
    name = f"kodou-{secrets.token_hex(8)}"
    script = f"""
import os, socket
for attempt in (lambda: os.kill({os.getpid()}, 0), lambda: socket.socket(socket.AF_UNIX).connect("\\0{name}")):
    try:
        attempt()
        print("done")
    except PermissionError:
        print("refused")
"""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        found = Path(interpreter).resolve()
        done = behind(interpreter, [str(found), "-I", "-c", script], read=[*system(), str(found.parents[1])], write=[])
    assert done.stdout == "refused\nrefused\n", done


def test_a_rule_that_cannot_be_made_starts_nothing(interpreter: str) -> None:
    done = behind(interpreter, ["/bin/echo", "started"], read=[*system(), "/nowhere"], write=[])
    assert (done.returncode, done.stdout) == (1, "")
    assert "no rule can be made for /nowhere" in done.stderr
