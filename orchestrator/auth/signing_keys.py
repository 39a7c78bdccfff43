"""Signing keys: files of 32 random bytes in `data_dir/keys`, numbered, one series for each kind of token.

The highest number signs, all verify. Whoever reads one can be anyone, so a file that others may read, that is short
or that is plainly not random stops the server from starting.
"""

import os
import re
import secrets
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.errors import InvalidRequest, KodouError, NotFound

KEY_BYTES = 32
LEAST_DISTINCT_BYTES = 8  # 32 random bytes have about 30; "changeme…", zeros and the like have few

_NAME = re.compile(r"(api|session)-([0-9]{8})\.key")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One that is there. `signs`: it is its kind's newest; the others only verify what they signed."""

    kind: str
    kid: str
    created_at: datetime
    signs: bool

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.kid}"


class UnsafeKey(KodouError):
    """A signing key that must not be used. The text names the file: it is for the operator, at start."""

    code = "unsafe_key"


def load(directory: Path, kind: str) -> dict[str, bytes]:
    """Keys of one kind in an existing directory, by number (`kid`), oldest first; makes the first. Raises `UnsafeKey`."""
    found = _names(directory, kind)
    if not found:
        _make(directory, kind, 1)
        found = _names(directory, kind)
    return {kid: _read(directory / name) for kid, name in found}


def add(directory: Path, kind: str) -> str:
    """Make the key that signs from now on; returns its `kid`."""
    while True:
        taken = _names(directory, kind)
        number = int(taken[-1][0]) + 1 if taken else 1
        before = directory.stat().st_mtime_ns
        if _make(directory, kind, number):
            _mark_changed(directory, before)
            return f"{number:08d}"


def found(directory: Path, kind: str) -> list[SigningKey]:
    """Keys of one kind, oldest first."""
    names = _names(directory, kind)
    return [
        SigningKey(kind, kid, datetime.fromtimestamp((directory / name).stat().st_mtime, UTC), kid == names[-1][0])
        for kid, name in names
    ]


def retire(directory: Path, kind: str, kid: str) -> None:
    """Remove a key, and with it the worth of all that it signed. Raises `NotFound`; `InvalidRequest`: it is the newest."""
    there = {key.kid: key for key in found(directory, kind)}
    if kid not in there:
        msg = f"there is no signing key {kind}-{kid}"
        raise NotFound(msg)
    if there[kid].signs:
        msg = f"{kind}-{kid} is the key that signs: rotate first, and retire it when what it signed is no longer in use"
        raise InvalidRequest(msg)
    before = directory.stat().st_mtime_ns
    (directory / f"{kind}-{kid}.key").unlink(missing_ok=True)
    _mark_changed(directory, before)


def _mark_changed(directory: Path, before: int) -> None:
    """Servers look at this time to see that keys came or went, and the kernel's own is as coarse as its tick."""
    now = max(time.time_ns(), before + 1)
    os.utime(directory, ns=(now, now))


def _names(directory: Path, kind: str) -> list[tuple[str, str]]:
    matches = (_NAME.fullmatch(name) for name in sorted(path.name for path in directory.iterdir()))
    return [(match[2], match[0]) for match in matches if match and match[1] == kind]


def _make(directory: Path, kind: str, number: int) -> bool:
    # Written whole under another name first: a process that starts beside us must never read half a key.
    draft = directory / f".{kind}-{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(KEY_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(draft, directory / f"{kind}-{number:08d}.key")
    except FileExistsError:
        return False  # the other process's key is as good
    finally:
        draft.unlink()
    return True


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        key = file.read(4096)
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        msg = f"signing key {path} may be read or changed by others: chmod 600 it, and remove it if somebody may have"
        raise UnsafeKey(msg)
    if len(key) < KEY_BYTES or len(set(key)) < LEAST_DISTINCT_BYTES:
        msg = f"signing key {path} is short or not random: remove it, and a new one is made (its tokens end)"
        raise UnsafeKey(msg)
    return key
