"""The process of the egress proxy: `python -I -m orchestrator.egress <descriptor> [<user id>]`.

It has no rights but to connect, knows nothing but its rules, and ends with the server: over a socket pair
(`descriptor`, SOCK_SEQPACKET) the server hands it the rules, then for each sandbox a listening socket; when that ends, so
does it. What it says there is of refused destinations, and hostile by the time it arrives.
"""

import asyncio
import ctypes
import json
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import uvloop

from orchestrator.egress.addresses import AddressRule
from orchestrator.egress.destinations import Destinations, Lookups
from orchestrator.egress.heads import Rejected, Request
from orchestrator.egress.proxy import Limits, Proxy
from orchestrator.egress.refusals import Refusals
from orchestrator.egress.rules import Rules

MESSAGE_BYTES = 64 * 1024
_NICENESS = 5  # calls go first
_LOOKUPS = 64
_LOOKUPS_PER_SANDBOX = 4
_MB = 1_000_000
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Door:
    proxy: Proxy
    serving: "asyncio.Task[None]"


class Doors:
    """The proxies of all sandboxes, opened and closed as the server says."""

    def __init__(self, rules: Rules, tell: Callable[[str, str, int, str, int], None]) -> None:
        self._rules = rules
        self._refusals = Refusals(tell)
        self._addresses = AddressRule(rules.allowed_networks, rules.denied_networks)
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="lookup")
        self._doors: dict[str, Door] = {}

    async def open(self, sandbox_id: str, listener: socket.socket) -> None:
        await self.close(sandbox_id)
        rules = self._rules
        loop = asyncio.get_running_loop()
        lookups = Lookups(lambda work: loop.run_in_executor(self._threads, work), _LOOKUPS_PER_SANDBOX)
        proxy = Proxy(
            Destinations(rules, self._addresses, lookups),
            Limits(
                max_connections=rules.max_connections_per_sandbox,
                idle_timeout_s=rules.idle_timeout_s,
                bytes_per_s=rules.mb_per_s * _MB,
            ),
            on_rejected=lambda request, rejected: self._note(sandbox_id, request, rejected),
            admits=self._has_room,
        )
        self._doors[sandbox_id] = Door(proxy, asyncio.create_task(_serve(proxy, listener)))

    async def close(self, sandbox_id: str) -> None:
        """Cut all its connections; not being open is fine."""
        door = self._doors.pop(sandbox_id, None)
        self._refusals.forget(sandbox_id)
        if door is not None:
            door.serving.cancel()
            await asyncio.gather(door.serving, return_exceptions=True)

    def _has_room(self) -> bool:
        return sum(door.proxy.connections for door in self._doors.values()) <= self._rules.max_connections

    def _note(self, sandbox_id: str, request: Request, rejected: Rejected) -> None:
        if rejected.status == 403:
            self._refusals.note(sandbox_id, request.host, request.port, rejected.reason)


async def _serve(proxy: Proxy, listener: socket.socket) -> None:
    async with proxy.serving(listener):
        await asyncio.get_running_loop().create_future()  # until it is cancelled


async def _obey(control: socket.socket) -> None:
    """Do what the server says until it has ended."""
    loop = asyncio.get_running_loop()

    def tell(sandbox: str, host: str, port: int, reason: str, more: int) -> None:
        message = {"sandbox": sandbox, "host": host, "port": port, "reason": reason, "more": more}
        with suppress(OSError):  # the server is busy: then it goes without
            control.send(json.dumps(message).encode())

    doors: Doors | None = None
    while True:
        message, listeners = await _received(loop, control)
        if not message:
            return
        if doors is None:
            doors = Doors(Rules.from_json(message), tell)
            continue
        words = json.loads(message)
        if words["verb"] == "open":
            await doors.open(words["sandbox"], listeners[0])
        else:
            await doors.close(words["sandbox"])


async def _received(loop: asyncio.AbstractEventLoop, control: socket.socket) -> tuple[bytes, list[socket.socket]]:
    readable = asyncio.Event()
    loop.add_reader(control.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(control.fileno())
    message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 1)
    return message, [socket.socket(fileno=each) for each in descriptors]


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.setblocking(False)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of peers that go away, as often as they do
    _confine(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    with control:
        uvloop.run(_obey(control))
    os._exit(0)  # lookups may be under way, and nobody waits for them


def _confine(uid: int | None) -> None:
    """Give up all rights, now that all is imported, and be out of other processes' way."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)
    os.chdir("/")
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)  # which takes all capabilities away
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    main()
