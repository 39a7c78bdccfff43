"""The one system call filter of every sandbox: text for Docker, a program for bubblewrap.

`seccomp.json` is an allow-list in Docker's profile format, for the native architecture only: other ABIs (32-bit, x32)
reach the same kernel code by other numbers, and a process that uses one is killed. Not in it, so refused with EPERM:
namespaces, mounts, tracing, keyrings, bpf, perf, userfaultfd, modules, and sockets of all but the usual kinds.
"""

import functools
import json
import struct
import tempfile
from collections.abc import Collection, Iterator, Sequence
from errno import ENOSYS, EPERM
from pathlib import Path
from types import ModuleType
from typing import Any

PROFILE = Path(__file__).with_suffix(".json")

# Both put input into a terminal as if it had been typed (CVE-2017-5226).
TIOCSTI = 0x5412
TIOCLINUX = 0x541C
IOCTL_BITS = 32  # the kernel looks at no more of the request, so the filter must not either (CVE-2019-10063)

_SETTING_IDS = (
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setfsuid",
    "setfsgid",
    "setgroups",
)
_NOT_SHARED = frozenset({*_SETTING_IDS, "shmget", "semget", "msgget"})
_ALL_BITS = 2**32 - 1

_MAX_SYSCALL = 1024  # above all numbers in use (under 500)
_X32_BIT = 0x40000000  # in numbers of the x32 ABI
_BINARY_TREE = 2  # of SCMP_FLTATR_CTL_OPTIMIZE, instead of a chain of comparisons

# Classic BPF over `struct seccomp_data`.
_LOAD = 0x20
_JUMP_IF_GREATER = 0x25
_JUMP_IF_AT_LEAST = 0x35
_RETURN = 0x06
_NUMBER_OFFSET = 0
_RETURN_ERRNO = 0x00050000


def profile_json(*, gvisor: bool = False, uids: range | None = None) -> str:
    """The profile as `docker run --security-opt seccomp=` takes it (20.10 and newer). `uids`: as `compiled`.

    `gvisor`: in the words of gVisor, which refuses with EPERM whatever error a rule names; so a C library would not fall back
    from `clone3`, and no thread would start. What is left to a tracer, where there is none, fails with ENOSYS.
    """
    profile = _profile(uids)
    if gvisor:
        return json.dumps({**profile, "syscalls": [_for_gvisor(rule) for rule in profile["syscalls"]]})
    return json.dumps(profile)


def _for_gvisor(rule: dict[str, Any]) -> dict[str, Any]:
    if rule.get("errnoRet") != ENOSYS:
        return rule
    return {**{name: value for name, value in rule.items() if name != "errnoRet"}, "action": "SCMP_ACT_TRACE"}


@functools.lru_cache(maxsize=64)
def compiled(uids: range | None = None) -> bytes:
    """The profile as a BPF program for this machine's architecture. Blocks the first time.

    `uids`: of a shared sandbox, whose process 1 may change its user and group ids, but to these only: as many as a power of
    two, and the first a multiple of it. It has no System V IPC, which would outlive a session.

    A call that is newer than libseccomp's tables fails with ENOSYS, not EPERM, so that a C library falls back to an
    older one. Raises `RuntimeError` where libseccomp is missing, `OSError` where it refuses.
    """
    # Looks for libseccomp when it is imported, and who uses Docker needs none.
    import pyseccomp  # type: ignore[import-untyped]

    program = pyseccomp.SyscallFilter(pyseccomp.ERRNO(EPERM))
    program.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)
    for rule in _profile(uids)["syscalls"]:
        action = pyseccomp.ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else pyseccomp.ERRNO(rule["errnoRet"])
        arguments = [_argument(pyseccomp, each) for each in rule.get("args", ())]
        for name in rule["names"]:
            number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
            if number >= 0:  # below: newer than libseccomp, or none of this architecture's
                program.add_rule(action, number, *arguments)
    with tempfile.TemporaryFile() as file:
        program.export_bpf(file)
        file.seek(0)
        return _unknown_first(_newest_syscall(pyseccomp)) + file.read()


def _unknown_first(newest: int) -> bytes:
    """Instructions to put before a program: a number above `newest` fails with ENOSYS. (runc does the same.)"""
    instructions = (
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_GREATER, 0, 2, newest),
        (_JUMP_IF_AT_LEAST, 1, 0, _X32_BIT),  # another ABI's: for the program to judge
        (_RETURN, 0, 0, _RETURN_ERRNO | ENOSYS),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def all_but(denied: Collection[int], *, bits: int) -> Iterator[tuple[int, int]]:
    """Cover every `bits` wide number that is not `denied` by (mask, value) pairs, each meaning `number & mask == value`.

    A filter only knows how to allow; ranges would need comparisons of 64 bits, of which the kernel ignores half.
    """
    for bit in range(bits):
        prefixes = {number >> bit for number in denied}
        for prefix in sorted({prefix ^ 1 for prefix in prefixes} - prefixes):
            yield ((1 << bits) - 1) >> bit << bit, prefix << bit


def _profile(uids: range | None) -> dict[str, Any]:
    profile: dict[str, Any] = json.loads(PROFILE.read_bytes())
    if uids is not None:
        profile["syscalls"] = [*_without(profile["syscalls"], _NOT_SHARED), *_within(uids)]
    profile["syscalls"] += [
        {
            "names": ["ioctl"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 1, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}],
        }
        for mask, value in all_but({TIOCSTI, TIOCLINUX}, bits=IOCTL_BITS)
    ]
    return profile


def _without(rules: Sequence[dict[str, Any]], names: Collection[str]) -> Iterator[dict[str, Any]]:
    for rule in rules:
        yield {**rule, "names": [name for name in rule["names"] if name not in names]}


def _within(uids: range) -> Iterator[dict[str, Any]]:
    """Rules by which ids are changed to `uids` only. The kernel looks at 32 bits of each, and so does the mask."""
    block = {"value": _ALL_BITS ^ (len(uids) - 1), "valueTwo": uids.start, "op": "SCMP_CMP_MASKED_EQ"}
    for names, count in (("setuid", "setgid"), 1), (("setresuid", "setresgid"), 3):
        arguments = [{"index": index, **block} for index in range(count)]
        yield {"names": list(names), "action": "SCMP_ACT_ALLOW", "args": arguments}
    none = {"index": 0, "value": _ALL_BITS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    yield {"names": ["setgroups"], "action": "SCMP_ACT_ALLOW", "args": [none]}


def _newest_syscall(pyseccomp: ModuleType) -> int:
    """The largest number that libseccomp has a name for."""
    for number in reversed(range(_MAX_SYSCALL)):
        try:
            pyseccomp.resolve_syscall(pyseccomp.system_arch(), number)
        except ValueError:
            continue
        return number
    return _MAX_SYSCALL


def _argument(pyseccomp: ModuleType, argument: dict[str, Any]) -> object:
    operator = getattr(pyseccomp, argument["op"].removeprefix("SCMP_CMP_"))
    return pyseccomp.Arg(argument["index"], operator, argument["value"], argument.get("valueTwo", 0))
