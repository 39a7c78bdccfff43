"""Landlock: rules that the kernel holds a process and all its descendants to, and that none of them can take back.

A second wall behind the mounts: what is not named here cannot be opened, even if a mount would have let it be seen.
Landlock forbids mounting, so it comes after the sandbox is set up and before anything of an environment runs. Connecting
to Unix sockets and the network are left to the namespaces.

Imported for its functions; or run, to have a command start behind the rules:
`python -I -S landlock.py read=/usr … write=/tmp … -- command …`
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, NoReturn, Tuple

# The same numbers on every architecture. (include/uapi/asm-generic/unistd.h, include/uapi/linux/landlock.h)
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV  # others are of directories only
# How many of the rights, by bit, the kernel knows from which version of its interface on. The first is not used: it has no
# right to move files between directories, and so forbids it, which breaks programs.
_KNOWN_BITS = {2: 14, 3: 15, 5: 16}
SCOPES_SINCE, _SCOPES = 6, 0b11  # abstract Unix sockets, signals: to processes behind the same rules only
_QUIET_SINCE, _QUIET = 7, 0b101  # what is refused is not logged: a log that code inside can fill helps nobody
LEAST_ABI = min(_KNOWN_BITS)

# Of these, those that are there may be written, and asked what devices are asked.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts")


class LandlockError(Exception):
    """The kernel, or this interpreter, cannot hold the rules."""


def abi() -> int:
    """The version of the kernel's interface; 0 where there is none, or this interpreter cannot ask."""
    try:
        return max(0, _syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))
    except LandlockError:
        return 0


def restrict(readable: "Iterable[str]", writable: "Iterable[str]") -> None:
    """Hold this process to reading and executing beneath `readable` and `writable` and writing beneath `writable` and to
    DEVICES. All else stays as it is; so do descriptors that are open. Names in / can be listed. Raises LandlockError."""
    version = abi()
    if version < LEAST_ABI:
        msg = "the kernel has no Landlock that serves (Linux 5.19, and in `lsm=`)"
        raise LandlockError(msg)
    handled = (1 << max(bits for since, bits in _KNOWN_BITS.items() if since <= version)) - 1
    scopes = _SCOPES if version >= SCOPES_SINCE else 0
    ruleset = _syscall(_CREATE_RULESET, _words(handled, 0, scopes), 24, 0)
    if ruleset < 0:
        msg = "landlock_create_ruleset was refused"
        raise LandlockError(msg)
    try:
        for path, rights in _rules(readable, writable):
            _allow(ruleset, path, rights & handled)
        if _syscall(_RESTRICT_SELF, ruleset, _QUIET if version >= _QUIET_SINCE else 0) < 0:
            msg = "landlock_restrict_self was refused"
            raise LandlockError(msg)
    finally:
        os.close(ruleset)


def restrict_to(rules: "Iterable[str]") -> None:
    """`restrict` by words: `read=<path>`, `write=<path>`. Raises LandlockError."""
    paths = {"read": [], "write": []}  # type: dict[str, list[str]]
    for rule in rules:
        kind, _, path = rule.partition("=")
        paths[kind].append(path)
    restrict(paths["read"], paths["write"])


def _rules(readable: "Iterable[str]", writable: "Iterable[str]") -> "Iterable[Tuple[str, int]]":
    read = _EXECUTE | _READ_FILE | _READ_DIR
    yield "/", _READ_DIR
    for path in readable:
        yield path, read
    for path in writable:
        yield path, ~(_MAKE_CHAR | _MAKE_BLOCK)
    for path in DEVICES:
        if os.path.exists(path):  # noqa: PTH110 - pathlib is large
            yield path, _READ_FILE | _WRITE_FILE | _READ_DIR | _IOCTL_DEV


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as exc:
        msg = f"no rule can be made for {path}: {exc.strerror}"
        raise LandlockError(msg) from None
    try:
        if not os.path.isdir(path):  # noqa: PTH112
            rights &= _OF_FILES
        beneath = _words(rights) + descriptor.to_bytes(4, sys.byteorder)
        if _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, beneath, 0) < 0:
            msg = f"landlock_add_rule was refused for {path}"
            raise LandlockError(msg)
    finally:
        os.close(descriptor)


def _words(*values: int) -> bytes:
    """As many 64-bit numbers."""
    return b"".join(value.to_bytes(8, sys.byteorder) for value in values)


def _syscall(number: int, *arguments: "Any") -> int:
    """syscall(2); negative where it failed. (`ctypes` would cost the start 8 ms; its core costs nothing.)"""
    try:
        import _ctypes

        function = _ctypes.dlsym(_ctypes.dlopen(None, 0), "syscall")  # type: ignore[arg-type]
        return int(_ctypes.call_function(function, (number, *arguments)))
    except (ImportError, AttributeError, OSError) as exc:
        msg = f"this interpreter cannot make system calls: {exc}"
        raise LandlockError(msg) from None


def _main(words: "list[str]") -> "NoReturn":
    split = words.index("--")
    try:
        restrict_to(words[:split])
    except LandlockError as exc:
        sys.exit(f"Landlock: {exc}")
    command = words[split + 1 :]
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    _main(sys.argv[1:])
