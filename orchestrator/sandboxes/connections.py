"""The connections of one runner: which is control, which is the worker's, and which may come. Knows no deadlines.

Control is the supervisor's and comes once; without it all is over. A worker's connection may end and be followed by
another, by the same worker (its generation is the same) or by a fresh one. So the link is open only while one is missing.
"""

import asyncio
import socket
from typing import Protocol

from runner import frames

from orchestrator.sandboxes.incoming import Incoming
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.replies import Exited, Malformed, Preloaded, read_exited, read_hello, read_preloaded
from orchestrator.sandboxes.wire import Peer

# Greetings and reports of a worker's end.
_SMALL_FRAME_BYTES = 64 * 1024
# Connections and reports between two replies: an honest runner needs a few, a hostile one would keep the loop busy.
_MOST_EVENTS = 100


class Owner(Protocol):
    """Who holds the connections."""

    def supervisor_came(self) -> None:
        """Control stands."""

    def preloaded(self, preloaded: Preloaded) -> None:
        """The supervisor has imported what it was told to."""

    def worker_came(self) -> None:
        """`worker` greeted and takes a call."""

    def end(self, reason: str) -> None:
        """The runner broke the protocol or is gone."""


class Caller(Protocol):
    """Who makes calls over the worker's connection."""

    def refuses(self, kind: int, length: int, extra: int, call_id: int) -> str | None:
        """Why the worker may not send a frame with this header now; None if it may."""

    def received(self, kind: int, body: bytes, content: Incoming | None) -> None:
        """The worker sent a frame that `refuses` let pass. `content` is its extra, which is yet to come."""

    def content_ended(self) -> None:
        """All of the content that was received last has come."""

    def worker_left(self) -> None:
        """The worker's connection ended, and not by us."""

    def worker_exited(self, exited: Exited) -> None:
        """The supervisor reports a worker's end, be it one that it was asked for."""


class Connections:
    """Accepts, greets and closes; hands on what comes. Makes its decisions from headers before it takes bodies in."""

    def __init__(self, link: Link, owner: Owner, caller: Caller) -> None:
        self.worker: Peer | None = None
        self._link = link
        self._owner = owner
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self._control: Peer | None = None
        self._peers: set[Peer] = set()  # every connection of which something is left
        self._adoptions: set[asyncio.Task[None]] = set()
        self._generation = 0  # of the last worker that greeted
        self._least_generation = 0
        self._most = 2 if link.reopened else 1  # an earlier server's worker may be there; a new one comes after CONFIG
        self._events = 0
        self._ends = 0  # of workers, as far as reported
        self._preloading = False
        self._closed = False
        self._look_out()

    def preload(self, wanted: bytes) -> None:
        """Send PRELOAD; the supervisor's answer may come from now on."""
        self._preloading = True
        if self._control is not None:
            self._control.tell(frames.PRELOAD, wanted)

    def configure(self, config: bytes) -> None:
        """Send CONFIG; from now on a worker may come."""
        self._most = 2
        self._look_out()
        if self._control is not None:
            self._control.tell(frames.CONFIG, config)

    def restart(self) -> None:
        """Have everything in the sandbox but the supervisor killed; only a fresh worker is accepted then. One that the
        supervisor has forked by itself by now is fresh, and may have its first call already when it reads this."""
        self.drop_worker()
        # Whoever connected before is about to be killed.
        self._link.refuse_waiting()
        for peer in [peer for peer in self._peers if peer is not self._control]:
            peer.abort()
        if self._control is not None:
            self._control.tell(frames.RESTART, b'{"ends": %d}' % self._ends)

    def drop_worker(self) -> None:
        """Close the worker's connection, so that nothing more is heard of it, and wait for a fresh worker."""
        self._least_generation = self._generation + 1
        if self.worker is not None:
            self.worker.abort()
            self.worker = None

    def settled(self) -> None:
        """A call got its reply: what came before does not count against the runner."""
        self._events = 0

    def close(self) -> None:
        """Close all connections and the link. May be called twice."""
        self._closed = True
        self._link.close()
        self._control = self.worker = None
        for peer in list(self._peers):
            peer.abort()

    async def wait_closed(self) -> None:
        """After `close`: until no descriptor is left."""
        await asyncio.gather(*self._adoptions)
        await asyncio.gather(*(peer.closed for peer in self._peers))

    # --- connections that come ---

    def _look_out(self) -> None:
        if not self._closed and len(self._peers) < self._most:
            self._link.accept(self._connected)
        else:
            self._link.pause()

    def _connected(self, sock: socket.socket) -> None:
        self._count_event()
        if self._closed or len(self._peers) >= self._most:
            sock.close()
            return
        peer = Peer(self, self._loop)
        self._peers.add(peer)
        adoption = self._loop.create_task(peer.adopt(sock))
        self._adoptions.add(adoption)
        adoption.add_done_callback(self._adoptions.discard)
        self._look_out()

    def _greeted(self, peer: Peer, body: bytes) -> None:
        hello = read_hello(body)
        if hello.role == "supervisor" and self._control is None:
            self._control = peer
            self._owner.supervisor_came()
        elif hello.role == "worker" and self.worker is None:
            if hello.generation < self._least_generation:
                peer.abort()  # it was told to die, and has not yet
                return
            self.worker = peer
            self._generation = hello.generation
            self._owner.worker_came()
        else:
            msg = "a connection greeted in a role that is not free"
            raise Malformed(msg)

    # --- what a Peer tells its owner ---

    def refuses(self, peer: Peer, kind: int, length: int, extra: int, call_id: int) -> str | None:
        if peer is self.worker:
            return self._caller.refuses(kind, length, extra, call_id)
        preloaded = kind == frames.PRELOADED and peer is self._control and self._preloading
        if not preloaded and kind != (frames.EXITED if peer is self._control else frames.HELLO):
            return "a frame of a kind that may not come there"
        if length > _SMALL_FRAME_BYTES or extra or call_id:
            return "a greeting or report of an impossible size or id"
        return None

    def received(self, peer: Peer, kind: int, body: bytes, content: Incoming | None) -> None:
        try:
            if peer is self.worker:
                self._caller.received(kind, body, content)
            elif kind == frames.PRELOADED:
                self._preloading = False
                self._owner.preloaded(read_preloaded(body))
            elif peer is self._control:
                self._count_event()
                self._ends += 1
                self._caller.worker_exited(read_exited(body))
            else:
                self._greeted(peer, body)
        except Malformed as exc:
            self.violated(peer, str(exc))

    def content_ended(self, peer: Peer) -> None:
        if peer is self.worker:
            self._caller.content_ended()

    def violated(self, peer: Peer, reason: str) -> None:
        peer.abort()
        self._owner.end(f"the runner broke the protocol: {reason}")

    def lost(self, peer: Peer) -> None:
        if peer is self._control:
            self._owner.end("the runner's process is gone")
        elif peer is self.worker:
            self.worker = None
            self._caller.worker_left()

    def closed(self, peer: Peer) -> None:
        self._peers.discard(peer)
        self._look_out()

    def _count_event(self) -> None:
        self._events += 1
        if self._events > _MOST_EVENTS:
            self._owner.end("the runner connects or reports over and over")
