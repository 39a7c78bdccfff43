"""Directory trees that a sandbox wrote: measured, taken over and deleted without ever following what it planted.

Every directory is opened relative to its parent's descriptor and never through a link, so that a rename under way
leads nowhere else. All of it blocks: call it in a thread.
"""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import NotFound

MAX_DEPTH = 64  # of directories; each level keeps one descriptor open
BLOCK_BYTES = 512  # of st_blocks
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class TreeTooDeep(Exception):
    """Directories nest deeper than `MAX_DEPTH`."""


@dataclass(frozen=True, slots=True)
class Usage:
    bytes: int
    files: int  # directories and links included


def measure(root: Path, *, max_files: int) -> Usage:
    """What a tree takes, also while it is written; counting ends past `max_files`. Raises `TreeTooDeep`, `OSError`."""
    taken, count = 0, 0
    linked: set[int] = set()  # a file with several names takes its room once
    for _, _, status in _entries(root):
        count += 1
        if status.st_ino not in linked:
            taken += status.st_blocks * BLOCK_BYTES
        if status.st_nlink > 1:
            linked.add(status.st_ino)
        if count > max_files:
            break
    return Usage(taken, count)


def take_over(root: Path) -> None:
    """Make a tree ours and writable by nobody else; pipes, sockets and the like go. Nothing may run any more that could
    write it. Raises `TreeTooDeep`, `OSError`."""
    uid, gid = os.geteuid(), os.getegid()
    os.chown(root, uid, gid, follow_symlinks=False)
    root.chmod(0o755)
    for parent, name, status in _entries(root):
        mode = status.st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            os.unlink(name, dir_fd=parent)
            continue
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            open_to_all = stat.S_ISDIR(mode) or mode & stat.S_IXUSR
            os.chmod(name, 0o755 if open_to_all else 0o644, dir_fd=parent)


def add_links(source: Path, target: Path) -> None:
    """Give a tree of ours all that another has and it has not: the same files, under further names. Raises `NotFound`: the
    other is gone; `OSError`."""
    try:
        _add_links(str(source), str(target))
        source.stat()  # if it was taken away meanwhile, a listing may have ended early
    except FileNotFoundError as exc:
        msg = f"{source} is gone"
        raise NotFound(msg) from exc


def delete(root: Path) -> None:
    """Delete a tree, however deep; already gone is success. Raises `OSError` if something of it stays."""
    if os.geteuid() != 0 and root.is_dir():  # root needs no permission; others may have been shut out by what built it
        subprocess.run(["chmod", "-R", "u+rwX", "--", root], check=False, capture_output=True)
    # Not shutil.rmtree: it recurses, and gives up on a tree that nests a thousand deep.
    done = subprocess.run(["rm", "-rf", "--one-file-system", "--", root], check=False, capture_output=True)
    if done.returncode != 0:
        msg = f"{root} could not be deleted: {done.stderr.decode(errors='replace').strip()}"
        raise OSError(msg)


def _add_links(source: str, target: str) -> None:
    """Thousands of files: plain strings, and no look at each."""
    with os.scandir(source) as entries:
        for entry in entries:
            there = f"{target}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                with suppress(FileExistsError):
                    Path(there).mkdir()
                    Path(there).chmod(0o755)  # whatever the umask is
                if stat.S_ISDIR(os.lstat(there).st_mode):
                    _add_links(entry.path, there)
                continue
            try:
                os.link(entry.path, there, follow_symlinks=False)
            except FileExistsError:
                continue
            except OSError as exc:
                if exc.errno != errno.EMLINK:  # of one file, file systems take some ten thousand names
                    raise
                shutil.copy2(entry.path, there, follow_symlinks=False)


def _entries(root: Path) -> Iterator[tuple[int, str, os.stat_result]]:
    """All below `root`: descriptor of its directory, name, status; a directory before what is in it."""
    fd = os.open(root, _OPEN_DIRECTORY)
    try:
        yield from _below(fd, 1)
    finally:
        os.close(fd)


def _below(fd: int, depth: int) -> Iterator[tuple[int, str, os.stat_result]]:
    if depth > MAX_DEPTH:
        raise TreeTooDeep
    for name in os.listdir(fd):
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:  # gone meanwhile
            continue
        yield fd, name, status
        if not stat.S_ISDIR(status.st_mode):
            continue
        try:
            child = os.open(name, _OPEN_DIRECTORY, dir_fd=fd)
        except OSError:  # gone or replaced meanwhile, or shut by its owner
            continue
        try:
            yield from _below(child, depth + 1)
        finally:
            os.close(child)
