"""Handles of sandboxes that no engine remembers, kept as files; and whether a remembered process is still that process."""

import contextlib
import json
from pathlib import Path

from orchestrator.sandboxes.backend import Sandbox
from orchestrator.telemetry import log


class HandleFiles:
    """One JSON file a sandbox, in a directory that is never mounted into one. Blocking: call it in a thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, sandbox: Sandbox) -> None:
        """Keep a handle, or replace it; a crash leaves the old file or the new one, never a half. Raises `OSError`."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._path(sandbox.id).with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(
            json.dumps(
                {
                    "id": sandbox.id,
                    "backend": sandbox.backend,
                    "environment_id": sandbox.environment_id,
                    "data": dict(sandbox.data),
                    "labels": dict(sandbox.labels),
                }
            )
        )
        new.replace(self._path(sandbox.id))

    def remove(self, sandbox_id: str) -> None:
        """Forget a handle; already gone is success."""
        self._path(sandbox_id).unlink(missing_ok=True)

    def all(self) -> list[Sandbox]:
        """Every handle kept, in no order. A file that cannot be read is logged and left out."""
        sandboxes = []
        for path in self._directory.glob("*.json"):
            try:
                sandboxes.append(Sandbox(**json.loads(path.read_bytes())))
            except FileNotFoundError:  # stopped between the listing and the reading
                continue
            except (ValueError, TypeError) as exc:
                log.warning("sandbox_handle_unreadable", path=str(path), error=str(exc))
        return sandboxes

    def _path(self, sandbox_id: str) -> Path:
        return self._directory / f"{sandbox_id}.json"


def process_start_time(pid: int) -> str | None:
    """When the process began, to the clock tick and naming the boot; None if there is none, or only its zombie.

    With the pid it names one process for good: pids are used again, within one boot and across boots.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command, second field, may hold spaces and brackets of its own: the last bracket ends it.
    state, *fields = stat.rpartition(b")")[2].split()
    if state in (b"Z", b"X"):
        return None
    return f"{_boot_id()}:{int(fields[18])}"


def is_same_process(pid: int, start_time: str) -> bool:
    """The process that had this pid at `start_time` is still there and is no zombie."""
    return process_start_time(pid) == start_time


def _boot_id() -> str:
    with contextlib.suppress(OSError):  # a container may hide it; ticks alone then have to do
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
