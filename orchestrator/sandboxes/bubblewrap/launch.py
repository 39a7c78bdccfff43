"""One process under bubblewrap, from its start to its end, as the host sees it. All of it blocks: call it in a thread.

bubblewrap is started by the user id that the sandbox is to have on the host, so that it makes an *unprivileged* user
namespace: started by root, every process inside would still be the host's root, whatever it looks like from inside.
It is held at the door (`--block-fd`) until the host has seen that user id and put it in its control groups.
"""

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes import seccomp
from orchestrator.sandboxes.bubblewrap.cgroups import Cgroup
from orchestrator.sandboxes.bubblewrap.tmpfs import await_mounts, limit_files
from orchestrator.sandboxes.bubblewrap.wrapping import as_user, limited
from orchestrator.sandboxes.directories.handles import is_same_process, process_start_time

# Both bound what hangs; on a busy machine either may take a while.
START_TIMEOUT_S = 60.0
KILL_TIMEOUT_S = 60.0
OOM_SCORE = 500  # a host that runs out of memory ends sandboxes before it ends the server
_POLL_S = 0.005
_THAW_AGAIN_S = 0.5
_LOG_BYTES = 16_384
_FLAGS_FIELD = 6  # of /proc/<pid>/stat, counted from the state
_PF_EXITING = 0x4


@dataclass(frozen=True, slots=True)
class Launched:
    """A sandbox that runs. `pid` is the host's id of its process 1, with which every process inside ends."""

    outer: "subprocess.Popen[bytes]"  # bubblewrap; ends with process 1, and with its exit code
    pid: int
    start_time: str
    files_limited: bool  # as asked for

    def kill(self) -> None:
        """End everything inside, and wait for it. May be called twice."""
        kill(self.pid, self.start_time)
        self.outer.kill()
        self.outer.wait(KILL_TIMEOUT_S)

    def let_go(self) -> None:
        """Leave it running when this process is done with it."""
        self.outer.returncode = 0  # or `Popen` complains that nobody waited; whoever stops it uses its handle


def launch(
    argv: Sequence[str],
    *,
    uid: int | None,
    limits: Mapping[str, int],
    cgroup: Cgroup | None,
    files: Mapping[str, int],
    output: bool = False,
    shared: range | None = None,
) -> Launched:
    """Start bubblewrap with `argv`, its own path first.

    `limits`: by the names of util-linux's `prlimit`. `uid`: user and group id to start it under; None: this process' own.
    `files`: how many each tmpfs may hold, by its path inside; set where that can be. `output`: `outer.stdout` and
    `outer.stderr` are pipes; else nothing is kept of what is written. `shared`: its process 1 may change its user id to these
    (and is started by root, in no user namespace: see `options._shared`). Raises `EngineUnavailable`, with bubblewrap's words.
    """
    with contextlib.ExitStack() as stack:
        info_read, info_write = _pipe(stack)
        block_read, block_write = _pipe(stack)
        log = _bounded_log(stack)
        descriptors = {
            "--seccomp": _filter(stack, shared).fileno(),
            "--info-fd": info_write.fileno(),
            "--block-fd": block_read.fileno(),
        }
        options = [word for item in descriptors.items() for word in map(str, item)]
        outer, pid = None, None
        try:
            outer = subprocess.Popen(
                [*as_user(uid), *limited(limits), argv[0], *options, *argv[1:]],
                env={},  # can be read inside: bubblewrap's process turns into the sandbox's first
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if output else subprocess.DEVNULL,
                stderr=subprocess.PIPE if output else log,
                pass_fds=tuple(descriptors.values()),
                start_new_session=True,
            )
            info_write.close()  # so that its end is seen when bubblewrap ends
            pid = _process_1(info_read)
            start_time = _admit(pid, os.geteuid() if uid is None else uid, cgroup)
            files_limited = _limit_files(pid, files)
            block_write.write(b"1")
        except (OSError, ValueError) as exc:
            # Process 1 takes the closed pipe for its cue to go on, so it must be dead before that.
            words = _abandon(outer, pid) or os.pread(log.fileno(), _LOG_BYTES, 0).rstrip(b"\0")
            msg = f"bubblewrap could not start a sandbox: {words.decode(errors='replace').strip() or exc}"
            raise EngineUnavailable(msg) from exc
    return Launched(outer, pid, start_time, files_limited)


def kill(pid: int, start_time: str, cgroup: Cgroup | None = None) -> None:
    """End the sandbox whose process 1 had this pid at `start_time`, and wait until all in it is dead. Gone is success.
    `cgroup`: it may be frozen."""
    try:
        # The descriptor names one process for good, so that what was checked is what is killed.
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if is_same_process(pid, start_time):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            deadline = time.monotonic() + KILL_TIMEOUT_S
            while time.monotonic() < deadline:
                if cgroup is not None:
                    # With version 1 the killed die once they thaw, and run nothing of theirs. Again: it may be just freezing.
                    cgroup.thaw()
                if _readable(pidfd, _THAW_AGAIN_S):
                    return
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def is_exiting(pid: int) -> bool:
    """It is on its way out: its connections are closed, and it can run no more, but it is listed still."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return True
    return bool(int(fields[_FLAGS_FIELD]) & _PF_EXITING)


def kill_user(uid: int) -> None:
    """End whatever runs under a sandbox's user id: one of which no more is known, as the server crashed at its start."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while (found := _processes_of(uid)) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _processes_of(uid: int) -> list[int]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        pid = int(directory.name)
        with contextlib.suppress(OSError):
            if set(_user_ids(directory)) == {str(uid)} and process_start_time(pid) is not None:  # None: a zombie
                found.append(pid)
    return found


def _admit(pid: int, uid: int, cgroup: Cgroup | None) -> str:
    start_time = process_start_time(pid)
    if start_time is None:
        msg = "its first process ended at once"
        raise ProcessLookupError(msg)
    seen = _user_ids(Path(f"/proc/{pid}"))
    if set(seen) != {str(uid)}:
        msg = f"its user ids on this host are {seen}, not {uid}; is bwrap installed with the set-user-id bit?"
        raise PermissionError(msg)
    with contextlib.suppress(PermissionError):  # not root, and the process may not be looked into
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))
    if cgroup is not None:
        cgroup.add(pid)
    return start_time


def _limit_files(pid: int, files: Mapping[str, int]) -> bool:
    """Wait until the sandbox's file systems are mounted, and limit them; False where this process may not."""
    try:
        await_mounts(pid, files, timeout_s=START_TIMEOUT_S)
    except PermissionError:  # not root: it cannot be looked into, nor can anything be set
        return False
    try:
        for path, count in files.items():
            limit_files(pid, path, count)
    except OSError:  # not root, or a kernel before 5.2: the memory limit holds them, later (`promises`)
        return False
    return True


def _user_ids(process: Path) -> list[str]:
    """Real, effective, saved and file system user id, as this host knows them."""
    status = (process / "status").read_text()
    return next(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))


def _abandon(outer: "subprocess.Popen[bytes] | None", pid: int | None) -> bytes:
    """End it, and return what it said on its own pipe, if it has one."""
    if outer is None:
        return b""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(outer.pid, signal.SIGKILL)  # process 1 is in its group at first
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with outer:
        return b"" if outer.stderr is None else outer.stderr.read(_LOG_BYTES)


def _process_1(info: BinaryIO) -> int:
    deadline = time.monotonic() + START_TIMEOUT_S
    text = b""
    while True:
        if not _readable(info.fileno(), max(0.0, deadline - time.monotonic())):
            msg = f"it did not report within {START_TIMEOUT_S:g} s"
            raise TimeoutError(msg)
        data = info.read(_LOG_BYTES)
        if not data:
            return int(json.loads(text)["child-pid"]) if text else _no_report()
        text += data


def _readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()  # `select` takes no descriptor past 1023, and each session has some
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _no_report() -> int:
    msg = "it ended before there was a sandbox"
    raise ProcessLookupError(msg)


def _pipe(stack: contextlib.ExitStack) -> tuple[BinaryIO, BinaryIO]:
    read, write = os.pipe()
    return (
        stack.enter_context(os.fdopen(read, "rb", buffering=0)),
        stack.enter_context(os.fdopen(write, "wb", buffering=0)),
    )


def _filter(stack: contextlib.ExitStack, uids: range | None) -> BinaryIO:
    file = stack.enter_context(os.fdopen(os.memfd_create("seccomp"), "w+b", buffering=0))
    file.write(seccomp.compiled(uids))
    file.seek(0)
    return file


def _bounded_log(stack: contextlib.ExitStack) -> BinaryIO:
    """Where standard error goes: a file that cannot grow and that nobody has to drain, whatever is written from inside."""
    file = stack.enter_context(
        os.fdopen(os.memfd_create("stderr", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b", buffering=0)
    )
    file.truncate(_LOG_BYTES)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return file
