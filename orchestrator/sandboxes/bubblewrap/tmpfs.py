"""A limit on the files of a sandbox's tmpfs, which bubblewrap has no option for: set from outside, by the kernel's mount API.

`fspick` takes a mount by a path through the sandbox's own root, so this process never enters its namespaces.
"""

import ctypes
import os
import time
from collections.abc import Collection
from pathlib import Path

# The same on all architectures; Linux 5.2 and newer. (include/uapi/asm-generic/unistd.h, include/uapi/linux/mount.h)
_FSCONFIG = 431
_FSPICK = 433
_AT_FDCWD = -100
_FSPICK_CLOEXEC = 1
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_RECONFIGURE = 7
_POLL_S = 0.001

_libc = ctypes.CDLL(None, use_errno=True)


def await_mounts(pid: int, paths: Collection[str], *, timeout_s: float) -> None:
    """Block until the process has file systems of its own at all paths, as it sees them.

    Raises `ProcessLookupError`: it ended before; `TimeoutError`; `PermissionError`: it may not be looked into.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            mounted = _mounts(str(pid))
        except PermissionError:
            raise
        except OSError as exc:
            msg = "its first process ended before it was ready"
            raise ProcessLookupError(msg) from exc
        # Until it has set out its own, the host's mounts are the sandbox's as well, and must not be taken for them; the
        # root is among those that the host surely keeps. (Read anew: device numbers are used again.)
        ours = set(_mounts("self").values())
        if all(path in mounted and mounted[path] not in ours for path in ("/", *paths)):
            return
        if time.monotonic() > deadline:
            msg = f"its file systems were not there within {timeout_s:g} s"
            raise TimeoutError(msg)
        time.sleep(_POLL_S)


def limit_files(pid: int, path: str, count: int) -> None:
    """Let the tmpfs at `path`, as the process sees it, hold `count` files at most.

    To be called after `await_mounts`, and before anything runs there that is not to be trusted. Raises `OSError`: not
    root, or a kernel that cannot.
    """
    picked = _syscall(_FSPICK, _AT_FDCWD, f"/proc/{pid}/root{path}".encode(), _FSPICK_CLOEXEC)
    try:
        _syscall(_FSCONFIG, picked, _FSCONFIG_SET_STRING, b"nr_inodes", str(count).encode(), 0)
        _syscall(_FSCONFIG, picked, _FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    finally:
        os.close(picked)


def _mounts(pid: str) -> dict[str, str]:
    """Mount point -> device, of all mounts that a process sees."""
    lines = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return {fields[4]: fields[2] for fields in lines}


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *(_word(argument) for argument in arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _word(argument: int | bytes | None) -> ctypes.c_long | ctypes.c_char_p:
    """A variadic C function takes whole registers."""
    return ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
