"""Handles on disk, and telling a process from its successor."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from orchestrator.sandboxes.backend import Sandbox
from orchestrator.sandboxes.directories.handles import HandleFiles, is_same_process, process_start_time

SANDBOX = Sandbox("a" * 32, "process", "py3.12-x", {"pid": "1"}, {"io.kodou.instance": "i"})


def test_what_is_written_is_found_until_it_is_removed(tmp_path: Path) -> None:
    handles = HandleFiles(tmp_path / "handles")
    assert handles.all() == []
    handles.write(SANDBOX)
    handles.write(SANDBOX)
    assert HandleFiles(tmp_path / "handles").all() == [SANDBOX]
    handles.remove(SANDBOX.id)
    handles.remove(SANDBOX.id)
    assert handles.all() == []
    assert list((tmp_path / "handles").iterdir()) == []


def test_handles_are_the_servers_own(tmp_path: Path) -> None:
    HandleFiles(tmp_path / "handles").write(SANDBOX)
    assert stat.S_IMODE((tmp_path / "handles").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "handles" / f"{SANDBOX.id}.json").stat().st_mode) == 0o600


def test_a_spoilt_file_hides_no_other(tmp_path: Path) -> None:
    handles = HandleFiles(tmp_path)
    handles.write(SANDBOX)
    for name, text in (("b", "{"), ("c", '{"unknown": 1}'), ("d", "[]"), ("e", "\x00")):
        (tmp_path / f"{name}.json").write_text(text)
    assert handles.all() == [SANDBOX]


def test_a_process_is_itself_until_it_ends() -> None:
    own = process_start_time(os.getpid())
    assert own is not None
    assert is_same_process(os.getpid(), own)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = process_start_time(child.pid)
        assert started is not None
        assert is_same_process(child.pid, started)
        assert not is_same_process(child.pid, own)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert not is_same_process(child.pid, started)
    assert process_start_time(child.pid) is None


def test_a_command_with_brackets_and_spaces_is_read_right(tmp_path: Path) -> None:
    odd = tmp_path / "a ) R 1 ("
    odd.symlink_to("/bin/cat")
    with subprocess.Popen([odd], stdin=subprocess.PIPE) as child:
        started = process_start_time(child.pid)
        assert started is not None
        assert int(started.rpartition(":")[2]) > 0
        assert child.stdin is not None
        child.stdin.close()
