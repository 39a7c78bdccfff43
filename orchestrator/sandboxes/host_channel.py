"""HostChannel: the control connection of a shared sandbox's process 1, which adds and removes sessions' slots (`slots.py`).

It is trusted no more than any other runner: an environment's imports run in it. Calls go over each slot's own channel.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from runner import frames

from orchestrator.errors import SandboxLost
from orchestrator.records import Resources
from orchestrator.sandboxes.incoming import Incoming
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.replies import Malformed, Preloaded, read_hello, read_preloaded, read_removed
from orchestrator.sandboxes.wire import Peer
from orchestrator.telemetry import log

T = TypeVar("T")

_MB = 1024 * 1024
# Greetings, lists of modules, slots.
_SMALL_FRAME_BYTES = 64 * 1024


class HostChannel:
    """Belongs to the event loop it is made in, and owns the link. `on_end` is called once, when it can do no more."""

    def __init__(self, link: Link, on_end: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._sandbox_id = link.directory.name
        self._on_end = on_end
        self._ended: str | None = None
        self._peer: Peer | None = None
        self._adoption: asyncio.Task[None] | None = None
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self._preloaded: asyncio.Future[Preloaded] | None = None
        self._added: set[str] = set()  # slots that are not removed
        self._removing: dict[str, asyncio.Future[bool]] = {}
        link.accept(self._connected)

    async def preload(self, distributions: Sequence[str], *, timeout_s: float) -> None:
        """Before any `add`: have the modules of these imported where every slot finds them. Raises `SandboxLost`."""
        self._preloaded = self._loop.create_future()
        self._send(frames.PRELOAD, {"distributions": list(distributions)})
        await self._answer(self._preloaded, timeout_s)

    def add(self, slot: str, uid: int, resources: Resources) -> None:
        """Have a supervisor started under that user id, which connects to the slot's link."""
        self._added.add(slot)
        limits = {"nproc": resources.pids, "data": resources.memory_mb * _MB}
        self._send(frames.ADD, {"slot": slot, "uid": uid, "limits": limits})

    async def remove(self, slot: str, *, timeout_s: float) -> bool:
        """Have everything that runs under the slot's user id ended. Whether its files are gone too. One that was never added
        has nothing. Raises `SandboxLost`: no answer came, so it may run still."""
        if slot not in self._added:
            return True
        self._removing[slot] = self._loop.create_future()
        self._send(frames.REMOVE, {"slot": slot})
        return await self._answer(self._removing[slot], timeout_s)

    def alive(self) -> bool:
        return self._ended is None

    async def aclose(self) -> None:
        """Close the connection and the link. May be called twice."""
        self._end("the channel was closed")
        if self._adoption is not None:
            await self._adoption
        if self._peer is not None:
            await self._peer.closed

    async def _answer(self, future: "asyncio.Future[T]", timeout_s: float) -> T:
        if self._ended is not None:
            raise SandboxLost(self._ended)
        try:
            return await asyncio.wait_for(asyncio.shield(future), timeout_s)
        except TimeoutError:
            msg = f"process 1 of the shared sandbox {self._sandbox_id} did not answer within {timeout_s:g} s"
            raise SandboxLost(msg) from None

    def _send(self, kind: int, members: Mapping[str, object]) -> None:
        if self._peer is not None:
            self._peer.tell(kind, msgspec.json.encode(members))

    def _connected(self, sock: socket.socket) -> None:
        self._link.close()  # one connection for all its life: without it all sessions start anew
        self._peer = Peer(self, self._loop)
        self._adoption = self._loop.create_task(self._peer.adopt(sock))

    # --- what a Peer tells its owner ---

    def refuses(self, peer: Peer, kind: int, length: int, extra: int, call_id: int) -> str | None:
        if length > _SMALL_FRAME_BYTES or extra or call_id:
            return "a frame of an impossible size or id"
        if not self.greeted.done():
            return None if kind == frames.HELLO else "no greeting"
        if kind == frames.PRELOADED and self._preloaded is not None and not self._preloaded.done():
            return None
        return None if kind == frames.REMOVED and self._removing else "a frame that nobody waits for"

    def received(self, peer: Peer, kind: int, body: bytes, content: Incoming | None) -> None:
        try:
            if kind == frames.HELLO:
                if read_hello(body).role != "supervisor":
                    msg = "process 1 greeted in another role"
                    raise Malformed(msg)
                self.greeted.set_result(None)
            elif kind == frames.PRELOADED:
                preloaded = read_preloaded(body)
                if self._preloaded is not None:
                    self._preloaded.set_result(preloaded)
            else:
                self._removed(body)
        except Malformed as exc:
            self.violated(peer, str(exc))

    def _removed(self, body: bytes) -> None:
        removed = read_removed(body)
        waiter = self._removing.pop(removed.slot, None)
        if waiter is None:
            msg = "a slot was removed that was not to be"
            raise Malformed(msg)
        self._added.discard(removed.slot)
        waiter.set_result(removed.clean)

    def content_ended(self, peer: Peer) -> None:
        """There is none."""

    def violated(self, peer: Peer, reason: str) -> None:
        self._end(f"process 1 broke the protocol: {reason}")

    def lost(self, peer: Peer) -> None:
        self._end("process 1 is gone")

    def closed(self, peer: Peer) -> None:
        """`lost` was told before."""

    def _end(self, reason: str) -> None:
        if self._ended is not None:
            return
        self._ended = reason
        log.info("shared_sandbox_ended", sandbox=self._sandbox_id, reason=reason)
        self._link.close()
        if self._peer is not None:
            self._peer.abort()
        for waiter in (self.greeted, self._preloaded, *self._removing.values()):
            if waiter is not None and not waiter.done():
                waiter.set_exception(SandboxLost(reason))
                waiter.exception()  # seen, should nobody wait
        self._on_end()
