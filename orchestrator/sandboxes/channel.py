"""RunnerChannel: the two connections to one runner (`runner/frames.py`).

Nothing of the other end is trusted: not its lengths (a frame is refused by its header, and memory follows what has
arrived), not its order (a frame that nobody waits for ends the channel), not its words (bodies are checked, and nothing
is done on what they say), not its haste (every wait is bounded here). Only the orchestrator keeps time. A runner can lie
about its own sandbox's results, and about nothing else.

The types of replies live in `replies.py` and are offered here too, so that the contract can be read in one place.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import Protocol

import msgspec
from runner import frames

from orchestrator.errors import SandboxLost
from orchestrator.sandboxes.connections import Connections
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.replies import (
    Exited,
    NotSerializable,
    Raised,
    RefusedCall,
    Reply,
    TimedOut,
    Value,
    Violation,
    WorkerDied,
    read_reply,
)
from orchestrator.telemetry import log

__all__ = [
    "NotSerializable",
    "Raised",
    "RefusedCall",
    "Reply",
    "RunnerChannel",
    "RunnerConfig",
    "SocketChannel",
    "TimedOut",
    "Value",
    "Violation",
    "WorkerDied",
    "greet",
]

# What a reply may hold beside its value and output: a traceback, a type, timing.
_REPLY_SLACK_BYTES = 256 * 1024
# stdout and stderr, each byte of which JSON may write as \uXXXX.
_OUTPUT_GROWTH = 2 * 6
# A fresh worker after a deadline; past it the sandbox is given up, so that the client hears within 250 ms.
_RESTART_S = 0.2
# A worker that an earlier server left busy; past it, it is replaced.
_ADOPTION_S = 2.0
# Between two looks at a sandbox whose runner has not connected yet.
_LOOK_S = 0.5
# From the end of a worker's connection to the report of its end.
_EXITED_S = 1.0
# From that report to the end of its connection: what it sent before is read first. A child of it may keep it open.
_LAST_WORDS_S = 0.05
# How much longer than its own timeout a call waits for a worker that is to come.
_WORKER_S = 5.0


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """What a runner is told once it is claimed; see CONFIG in `runner/frames.py`."""

    env: dict[str, str]
    max_reply_bytes: int
    max_output_bytes: int
    max_items: int
    orphan_s: int
    fsize_bytes: int
    egress: bool = False


class RunnerChannel(Protocol):
    """One call at a time runs; more wait in order of arrival."""

    async def configure(self, config: RunnerConfig, *, timeout_s: float) -> None:
        """Send CONFIG and wait for the worker's greeting. Raises `SandboxLost`."""

    async def call(self, body: bytes, *, flags: int, timeout_s: float) -> Reply:
        """Run one call; always returns within `timeout_s` + 0.25 s of its start, after waiting for its turn."""

    def alive(self) -> bool:
        """The control connection stands."""

    async def aclose(self) -> None:
        """Close both connections; the runner goes on and may be connected to again. May be called twice."""


async def greet(
    link: Link, timeout_s: float, *, ended: Callable[[], Awaitable[str | None]] | None = None
) -> "SocketChannel":
    """The channel to the runner that connects to `link`, once its supervisor has greeted. The channel owns the link.

    Args:    ended: says why the sandbox is no more, or None; asked now and then, so that no dead one is waited for.
    Raises:  SandboxLost: no greeting came in time, or one that is not what it has to be. The link is closed then.
    """
    channel = SocketChannel(link)
    try:
        async with asyncio.timeout(timeout_s):
            while not (await asyncio.wait([channel.greeted], timeout=_LOOK_S))[0]:
                reason = await ended() if ended is not None else None
                if reason is not None:
                    msg = f"sandbox {link.directory.name} ended before its runner connected: {reason}"
                    raise SandboxLost(msg)
            channel.greeted.result()
    except BaseException as exc:
        channel.greeted.cancel()
        await channel.aclose()
        if isinstance(exc, TimeoutError):
            msg = f"the runner of sandbox {link.directory.name} did not connect within {timeout_s:g} s"
            raise SandboxLost(msg) from None
        raise
    return channel


class _Phase(Enum):
    """Where the running call is."""

    UNSENT = auto()  # waiting for a fresh worker
    SENT = auto()
    BEREFT = auto()  # its worker's connection ended; the report of the worker's end is awaited
    OVERDUE = auto()  # the deadline came; a fresh worker is awaited


class _Call:
    """One call, from its arrival to its reply. Outlives a caller that was cancelled."""

    __slots__ = ("body", "deadline", "due", "exited", "flags", "id", "phase", "reply", "step", "timeout_s")

    def __init__(self, body: bytes, flags: int, timeout_s: float, reply: asyncio.Future[Reply]) -> None:
        self.body = body
        self.flags = flags
        self.timeout_s = timeout_s
        self.reply = reply
        self.id = secrets.randbits(64)
        self.phase = _Phase.UNSENT
        self.deadline = 0.0  # in the loop's time, once sent
        # The one thing that is timed in this phase, and when it is due, in the loop's time.
        self.step: Callable[[_Call], None] | None = None
        self.due = 0.0
        self.exited: Exited | None = None


class SocketChannel:
    """RunnerChannel over a `Link`. Made by `greet`; belongs to the event loop it is made in."""

    def __init__(self, link: Link) -> None:
        self._loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self._sandbox_id = link.directory.name
        self._adopted = link.reopened
        self._ended: str | None = None  # why nothing can be called any more
        self._max_reply_bytes = 0
        self._arrival: asyncio.Future[None] | None = None  # of a worker, for `configure`
        self._running: _Call | None = None
        self._waiting: deque[_Call] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._connections = Connections(link, self)

    async def configure(self, config: RunnerConfig, *, timeout_s: float) -> None:
        self._max_reply_bytes = config.max_reply_bytes + _OUTPUT_GROWTH * config.max_output_bytes + _REPLY_SLACK_BYTES
        try:
            async with asyncio.timeout(timeout_s):
                self._connections.configure(msgspec.json.encode(asdict(config)))
                if self._adopted:
                    await self._adopt_worker()
                await self._worker_arrives()
        except TimeoutError:
            msg = f"no worker of sandbox {self._sandbox_id} greeted within {timeout_s:g} s"
            raise SandboxLost(msg) from None

    async def call(self, body: bytes, *, flags: int, timeout_s: float) -> Reply:
        if self._ended is not None:
            return Violation(self._ended)
        call = _Call(body, flags, timeout_s, self._loop.create_future())
        if self._running is None:
            self._begin(call)
            return await call.reply
        self._waiting.append(call)
        try:
            return await call.reply
        finally:
            if call.reply.cancelled() and call in self._waiting:
                self._waiting.remove(call)

    def alive(self) -> bool:
        return self.greeted.done() and self._ended is None

    async def aclose(self) -> None:
        self._close("the channel was closed")
        await self._connections.wait_closed()

    async def _adopt_worker(self) -> None:
        try:
            async with asyncio.timeout(_ADOPTION_S):
                await self._worker_arrives()
        except TimeoutError:
            # It is busy with a call that an earlier server left behind, whose reply nobody waits for.
            self._connections.restart()

    async def _worker_arrives(self) -> None:
        if self._ended is not None:
            raise SandboxLost(self._ended)
        if self._connections.worker is None:
            self._arrival = self._loop.create_future()
            await self._arrival

    # --- one call at a time: each of these is a step of the running call ---

    def _begin(self, call: _Call) -> None:
        self._running = call
        if self._connections.worker is not None:
            self._send(call)
        else:
            self._time(call, self._loop.time() + call.timeout_s + _WORKER_S, self._no_worker)

    def _send(self, call: _Call) -> None:
        worker = self._connections.worker
        if worker is None:
            return
        call.phase = _Phase.SENT
        call.deadline = self._loop.time() + call.timeout_s
        self._time(call, call.deadline, self._deadline)
        body, call.body = call.body, b""
        worker.send(frames.HEADER.pack(frames.CALL, call.flags.to_bytes(3, "big"), len(body), 0, call.id), body)

    def _finish(self, call: _Call, reply: Reply) -> None:
        if not call.reply.done():  # else its caller was cancelled
            call.reply.set_result(reply)
        self._connections.settled()
        self._next()

    def _next(self) -> None:
        self._running = None
        while self._waiting and self._running is None:
            following = self._waiting.popleft()
            if not following.reply.done():
                self._begin(following)

    def _time(self, call: _Call, when: float, step: Callable[[_Call], None]) -> None:
        """Take `step` at `when`, unless the call ends or another step is timed before."""
        call.step, call.due = step, when
        # One timer serves all calls and is set anew only when it would ring too late: a timer of its own for each
        # costs an eighth of the whole round trip.
        if self._alarm is None or self._alarm_at > when:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(when, self._ring)
            self._alarm_at = when

    def _ring(self) -> None:
        self._alarm = None
        call = self._running
        if call is None or call.step is None:
            return
        if call.due > self._loop.time():  # it was set for an earlier call
            self._time(call, call.due, call.step)
        else:
            call.step(call)

    def _no_worker(self, call: _Call) -> None:
        self.end("no fresh worker greeted in time")

    def _deadline(self, call: _Call) -> None:
        call.phase = _Phase.OVERDUE
        self._connections.restart()
        self._time(call, self._loop.time() + _RESTART_S, self._not_restarted)

    def _not_restarted(self, call: _Call) -> None:
        if not call.reply.done():
            call.reply.set_result(TimedOut(clean=False))
        self.end("no fresh worker greeted in time after a deadline")

    def _unexplained(self, call: _Call) -> None:
        self._connections.restart()
        self._finish(call, WorkerDied(None, None))

    def _explained(self, call: _Call) -> None:
        self._connections.drop_worker()
        exited = call.exited or Exited()
        self._finish(call, WorkerDied(exited.code, exited.signal))

    # --- what the connections tell ---

    def refuses(self, kind: int, length: int, call_id: int) -> str | None:
        call = self._running
        if call is None or call.phase is not _Phase.SENT:
            return "a frame that no call waits for"
        if kind not in frames.REPLIES or call_id != call.id:
            return "a frame that is no reply to the running call"
        if length > self._max_reply_bytes:
            return "a reply over the limit"
        return None

    def replied(self, kind: int, body: bytes) -> None:
        reply = read_reply(kind, body)
        if self._running is not None:
            self._finish(self._running, reply)

    def supervisor_came(self) -> None:
        if not self.greeted.done():
            self.greeted.set_result(None)

    def worker_came(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        call = self._running
        if call is None:
            return
        if call.phase is _Phase.OVERDUE:
            self._finish(call, TimedOut(clean=True))
        elif call.phase is _Phase.UNSENT:
            if call.reply.done():  # its caller was cancelled meanwhile
                self._next()
            else:
                self._send(call)

    def worker_left(self) -> None:
        call = self._running
        if call is None or call.phase is not _Phase.SENT:
            return
        if call.exited is not None:
            self._explained(call)
            return
        call.phase = _Phase.BEREFT
        self._connections.drop_worker()
        self._time(call, min(self._loop.time() + _EXITED_S, call.deadline), self._unexplained)

    def worker_exited(self, exited: Exited) -> None:
        call = self._running
        if call is None or call.phase is _Phase.UNSENT:
            self._connections.drop_worker()
        elif call.phase is _Phase.BEREFT:
            self._finish(call, WorkerDied(exited.code, exited.signal))
        elif call.phase is _Phase.SENT:
            call.exited = exited
            self._time(call, min(self._loop.time() + _LAST_WORDS_S, call.deadline), self._explained)

    def end(self, reason: str) -> None:
        if self._ended is None:
            log.warning("channel_ended", sandbox=self._sandbox_id, reason=reason)
            self._close(reason)

    def _close(self, reason: str) -> None:
        if self._ended is not None:
            return
        self._ended = reason
        self._connections.close()
        for waiter in (self.greeted, self._arrival):
            if waiter is not None and not waiter.done():
                waiter.set_exception(SandboxLost(reason))
        for call in (*([self._running] if self._running else ()), *self._waiting):
            if not call.reply.done():
                call.reply.set_result(Violation(reason))
        self._running = None
        self._waiting.clear()
        if self._alarm is not None:
            self._alarm.cancel()
