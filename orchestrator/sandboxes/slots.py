"""Slots: room for sessions in a shared sandbox, each with a user id, a supervisor and a link of its own.

A shared sandbox has a block of user ids: the first is its process 1's, the next of what clears up, the rest are of slots. A
slot's link lies in a directory of its own below the sandbox's, which its user id alone may enter.
"""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from orchestrator.records import Resources
from orchestrator.sandboxes.backend import Sandbox, SandboxBackend
from orchestrator.sandboxes.link import Link, opened
from orchestrator.settings import Settings

FIRST_SLOT = 2
UIDS = "uids"  # of a shared sandbox's `data`: how many it has
_PIDS_OWN = 16  # process 1, and what it forks for a moment
_PIDS_EACH = 2  # a supervisor, and one that is being replaced


@runtime_checkable
class SharingBackend(SandboxBackend, Protocol):
    """A backend whose sandboxes can have slots (`SandboxSpec.slots`)."""

    async def open_link(self, sandbox: Sandbox) -> Link:
        """What process 1 connects to, once; the caller owns it. Raises `SandboxLost`."""

    async def open_slot(self, sandbox: Sandbox, slot: str, number: int) -> Link:
        """What the slot's supervisor is to connect to; the caller owns it. `slot`: 32 hex digits, random; `number` tells the
        user id. Raises `OSError`."""

    async def close_slot(self, sandbox: Sandbox, slot: str) -> None:
        """Remove its link. Already gone is success."""


def block(slots: int) -> int:
    """How many user ids a sandbox takes: a power of two, as the system call filter compares bits; one without slots has
    one."""
    return 1 << (slots + FIRST_SLOT - 1).bit_length() if slots else 1


def slot_uid(sandbox: Sandbox, number: int) -> int:
    return int(sandbox.data["uid"]) + FIRST_SLOT + number


def enlarged(resources: Resources, settings: Settings) -> Resources:
    """What a whole shared sandbox is held to, of which each session may have `resources`."""
    slots, shares = settings.max_sessions_per_sandbox, settings.shared_sandbox_shares
    return replace(
        resources,
        memory_mb=resources.memory_mb * shares,
        cpus=resources.cpus * shares,
        disk_mb=resources.disk_mb * shares,
        pids=_PIDS_OWN + slots * (resources.pids + _PIDS_EACH),  # of which each user id has its own count
    )


async def open_link(run_dir: Path, sandbox: Sandbox, slot: str, *, owner: int | None, uid: int) -> Link:
    """As `SharingBackend.open_slot`."""
    return await opened(partial(Link.create, run_dir / sandbox.id, slot, owner=owner, peer_uid=uid))


async def remove_link(run_dir: Path, sandbox: Sandbox, slot: str) -> None:
    """As `SharingBackend.close_slot`."""
    await asyncio.to_thread(Link.remove, run_dir / sandbox.id, slot)
