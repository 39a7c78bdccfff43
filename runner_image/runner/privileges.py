"""Who a process is: of a shared sandbox, whose process 1 starts the sessions' supervisors under user ids of their own.

Process 1 keeps the right to change user ids and nothing else; to which ids, the system call filter says. So it can run an
environment's imports: what they may do with that right is what they may do in each of the sessions anyway.
"""

from __future__ import annotations

import os
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

# linux/capability.h, linux/prctl.h
_CAPABILITY_VERSION_3 = 0x20080522
_SETGID, _SETUID = 6, 7
_CAPABILITIES = 64  # no more fit into the kernel's sets
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_HEADER = Struct("=Ii")  # version, process
_SETS = Struct("=6I")  # effective, permitted, inheritable: the low 32 bits, then the high ones

# What a sandbox has too little memory for ends a session's process before process 1, with which all sessions would end.
_OOM_SCORE = b"1000"


def keep_switching(uid: int) -> None:
    """As root, before anything of an environment runs: become this user and group, who can become others. Raises OSError."""
    os.setgroups([])
    for number in range(_CAPABILITIES):
        if _prctl(_PR_CAPBSET_READ, number) == 1:
            _done(_prctl(_PR_CAPBSET_DROP, number), "prctl")
    _done(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "prctl")
    _done(_prctl(_PR_SET_KEEPCAPS, 1), "prctl")
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _hold(1 << _SETUID | 1 << _SETGID)


def become(uid: int) -> None:
    """In a fork of such a process: this user and group for good, with no right beyond theirs. Raises OSError."""
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _hold(0)


def act_for(uid: int, keeper: int) -> None:
    """In a fork of such a process: have the rights of `uid`, while its processes have none over this one. Raises OSError."""
    os.setresgid(uid, uid, uid)
    os.setresuid(keeper, uid, keeper)
    _hold(0)


def limit(limits: Mapping[str, int]) -> None:
    """Hold this process and its children to these, by the names of `resource`, as far as it is not already."""
    import resource

    for name, wanted in limits.items():
        number = getattr(resource, "RLIMIT_" + name.upper())
        hard = resource.getrlimit(number)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(number, (value, value))


def go_first() -> None:
    """Be ended before others where memory runs out."""
    _prctl(_PR_SET_DUMPABLE, 1)  # else the file is root's
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, _OOM_SCORE)
        finally:
            os.close(descriptor)
    except OSError:
        return  # the memory limit holds all the same


def _hold(capabilities: int) -> None:
    sets = _SETS.pack(capabilities, capabilities, 0, 0, 0, 0)
    _done(_call("capset", _HEADER.pack(_CAPABILITY_VERSION_3, 0), sets), "capset")


def _prctl(option: int, value: int) -> int:
    return _call("prctl", option, value, 0, 0, 0)


def _call(name: str, *arguments: object) -> int:
    """A function of the C library. (`ctypes` would cost the start 5 ms; its core costs 1.)"""
    import _ctypes

    return int(_ctypes.call_function(_ctypes.dlsym(_ctypes.dlopen(None, 0), name), arguments))  # type: ignore[arg-type]


def _done(result: int, name: str) -> None:
    if result < 0:
        msg = f"{name} was refused"
        raise PermissionError(msg)
