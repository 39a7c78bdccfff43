"""Package files for a build, taken from a store that another process writes and that may change under our hands.

What is mounted into a builder is a copy that nobody else can write, made while its hash is taken: a link to the
store's own file could be changed after it was checked.
"""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.driver.messages import File
from orchestrator.errors import BuildFailed
from orchestrator.sandboxes.workspace import Workspace
from orchestrator.settings import Settings

_CHUNK_BYTES = 1024 * 1024
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a planted pipe would be waited for.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@asynccontextmanager
async def copied(files: Sequence[File], settings: Settings) -> AsyncIterator[list[Path]]:
    """Copies of the wheel store's files, until the block is left. Raises `BuildFailed`: one is not there, is not what its
    hash says, or they are larger than an environment may be."""
    if len({file.filename for file in files}) < len(files):
        msg = "two package files have one name"
        raise BuildFailed(msg, log_tail="")
    async with Workspace.held(settings.builds_dir) as workspace:
        left = settings.build_disk_mb * 1024 * 1024
        for file in files:
            left -= await _through(file, settings.wheels_dir, workspace.files, left)
        yield [workspace.files / file.filename for file in files]


async def _through(file: File, store: Path, target: Path, most: int) -> int:
    """Copy in a thread, waited for also by who is cancelled: the workspace goes next."""
    copying = asyncio.ensure_future(asyncio.to_thread(_copy, file, store, target, most))
    try:
        return await asyncio.shield(copying)
    except asyncio.CancelledError:
        await asyncio.wait({copying})
        copying.exception()
        raise


def _copy(file: File, store: Path, target: Path, most: int) -> int:
    """How many bytes it had."""
    digest, size = hashlib.sha256(), 0
    try:
        source = _opened(file, store)
    except OSError as exc:
        msg = f"the package file {file.filename} cannot be read: is KODOU_WHEELS_DIR of the driver that of the server?"
        raise BuildFailed(msg, log_tail="") from exc
    with os.fdopen(source, "rb") as data, (target / file.filename).open("xb") as copy:
        while chunk := data.read(_CHUNK_BYTES):
            size += len(chunk)
            if size > most:
                msg = "the package files are larger than an environment may be"
                raise BuildFailed(msg, log_tail="")
            digest.update(chunk)
            copy.write(chunk)
    if digest.hexdigest() != file.sha256:
        msg = f"the package file {file.filename} is not what its hash says"
        raise BuildFailed(msg, log_tail="")
    (target / file.filename).chmod(0o644)  # whatever the umask is
    return size


def _opened(file: File, store: Path) -> int:
    """The file at <store>/<first two digits>/<sha256>/<file name>, reached through no link. Raises `OSError`."""
    directory = os.open(store, _DIRECTORY)
    for name in (file.sha256[:2], file.sha256):
        above = directory
        try:
            directory = os.open(name, _DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    try:
        opened = os.open(file.filename, _FILE, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        msg = "it is no file"
        raise OSError(msg)
    return opened
