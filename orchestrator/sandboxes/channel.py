"""The contract of the way to a runner. `socket_channel.py` has it for sandboxes, and tests have doubles of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.sandboxes.events import Events
from orchestrator.sandboxes.work import Run, Work


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """What a runner is told once it is claimed; see CONFIG in `runner/frames.py`."""

    env: dict[str, str]
    max_reply_bytes: int
    max_output_bytes: int
    max_items: int
    orphan_s: int
    fsize_bytes: int
    max_content_bytes: int = 1024**3
    max_references: int = 1000
    max_reference_bytes: int = 256 * 1024**2
    first: bool = True
    egress: bool = False


class RunnerChannel(Protocol):
    """One call at a time runs; more wait in order of arrival."""

    async def configure(self, config: RunnerConfig, *, timeout_s: float) -> None:
        """Send CONFIG and wait for the worker's greeting. Raises `SandboxLost`."""

    async def preload(self, distributions: Sequence[str], *, timeout_s: float) -> int:
        """Before `configure`: have the modules of these imported where every worker finds them. Returns the bytes of
        memory that the runner says it takes now. Raises `SandboxLost`."""

    async def call(
        self, work: Work, *, timeout_s: float, until: float | None = None, events: Events | None = None
    ) -> Run:
        """Run one request; always returns within `timeout_s` + 0.25 s of its start, after waiting for its turn.

        It runs no longer than `until`, in the loop's time; if its turn comes after that, it is not begun. `events` get what
        it tells before its reply. The next one begins once the reply's content, if it has any, is read or dropped.
        """

    def alive(self) -> bool:
        """The control connection stands."""

    def idle(self) -> bool:
        """No call runs or waits, nor the fresh worker after one."""

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
    await await_greeting(channel, link.directory.name, timeout_s, ended)
    return channel


class Greeted(Protocol):
    """A channel that waits for a greeting."""

    greeted: asyncio.Future[None]

    async def aclose(self) -> None: ...


async def await_greeting(
    channel: Greeted, sandbox_id: str, timeout_s: float, ended: Callable[[], Awaitable[str | None]] | None
) -> None:
    """As `greet`; the channel is closed where it raises."""
    try:
        async with asyncio.timeout(timeout_s):
            while not (await asyncio.wait([channel.greeted], timeout=_LOOK_S))[0]:
                reason = await ended() if ended is not None else None
                if reason is not None:
                    msg = f"sandbox {sandbox_id} ended before its runner connected: {reason}"
                    raise SandboxLost(msg)
            channel.greeted.result()
    except BaseException as exc:
        channel.greeted.cancel()
        await channel.aclose()
        if isinstance(exc, TimeoutError):
            msg = f"the runner of sandbox {sandbox_id} did not connect within {timeout_s:g} s"
            raise SandboxLost(msg) from None
        raise


class SocketChannel:
    """RunnerChannel over a `Link`. Made by `greet`; belongs to the event loop it is made in."""

    def __init__(self, link: Link) -> None:
        self._loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self._sandbox_id = link.directory.name
        self._adopted = link.reopened
        self._ended: str | None = None  # why nothing can be called any more
        self._max_reply_bytes = 0
        self._max_content_bytes = 0
        self._arrival: asyncio.Future[None] | None = None  # of a worker, for `configure`
        self._preloaded: asyncio.Future[Preloaded] | None = None
        self._running: Call | None = None
        self._waiting: deque[Call] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._connections = Connections(link, self)

    async def configure(self, config: RunnerConfig, *, timeout_s: float) -> None:
        self._max_reply_bytes = config.max_reply_bytes + _OUTPUT_GROWTH * config.max_output_bytes + _REPLY_SLACK_BYTES
        self._max_content_bytes = config.max_content_bytes + _HEAD_BYTES
        try:
            async with asyncio.timeout(timeout_s):
                self._connections.configure(msgspec.json.encode(asdict(config)))
                if self._adopted:
                    await self._adopt_worker()
                await self._worker_arrives()
        except TimeoutError:
            msg = f"no worker of sandbox {self._sandbox_id} greeted within {timeout_s:g} s"
            raise SandboxLost(msg) from None

    async def preload(self, distributions: Sequence[str], *, timeout_s: float) -> int:
        if self._ended is not None:
            raise SandboxLost(self._ended)
        self._preloaded = self._loop.create_future()
        self._connections.preload(msgspec.json.encode({"distributions": list(distributions)}))
        try:
            async with asyncio.timeout(timeout_s):
                return (await self._preloaded).bytes
        except TimeoutError:
            msg = f"the imports of sandbox {self._sandbox_id} took longer than {timeout_s:g} s"
            raise SandboxLost(msg) from None
        finally:
            self._preloaded = None

    async def call(
        self, work: Work, *, timeout_s: float, until: float | None = None, events: Events | None = None
    ) -> Run:
        call = Call(work, timeout_s, until, events, self._loop)
        if self._ended is not None:
            return call.run(Violation(self._ended, sent=False))
        if self._running is None:
            self._begin(call)
            reply = await call.reply
        else:
            reply = await self._turn(call)
        return call.run(await self._read(reply) if isinstance(reply, Unread) else reply)

    async def _turn(self, call: Call) -> Reply | Unread:
        """Wait among others; its reply."""
        self._waiting.append(call)
        overdue = None if call.until is None else self._loop.call_at(call.until, self._overdue, call)
        try:
            return await call.reply
        finally:
            if overdue is not None:
                overdue.cancel()
            if call.reply.cancelled() and call in self._waiting:
                self._waiting.remove(call)

    def _overdue(self, call: Call) -> None:
        if call in self._waiting:
            self._waiting.remove(call)
            call.reply.set_result(TimedOut(restarted=False, begun=False))

    async def _read(self, reply: Unread) -> Reply:
        try:
            return await read_typed(reply.body, reply.content)
        except Malformed as exc:
            self.end(f"the runner broke the protocol: {exc}")
        except SandboxLost as exc:
            return Violation(exc.detail)
        return Violation("the runner broke the protocol")

    def alive(self) -> bool:
        return self.greeted.done() and self._ended is None

    def idle(self) -> bool:
        return self._running is None

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

    def _begin(self, call: Call) -> None:
        self._running = call
        if self._connections.worker is not None:
            self._send(call)
        else:
            self._time(call, self._loop.time() + call.timeout_s + _WORKER_S, self._no_worker)

    def _send(self, call: Call) -> None:
        worker = self._connections.worker
        if worker is None:
            return
        now = self._loop.time()
        if call.until is not None:
            if call.until <= now:
                self._finish(call, TimedOut(restarted=False, begun=False))
                return
            call.timeout_s = min(call.timeout_s, call.until - now)
        call.phase = Phase.SENT
        call.began = perf_counter()
        call.deadline = now + call.timeout_s
        self._time(call, call.deadline, self._deadline)
        work = call.work
        flags = work.flags.to_bytes(3, "big")
        if not work.forms and not work.files:
            worker.send(frames.HEADER.pack(work.kind, flags, len(work.body), 0, call.id), work.body)
            return
        envelope = work.envelope()
        extra = len(envelope) + sum(file.size for file in work.files)
        worker.send(frames.HEADER.pack(work.kind, flags, len(work.body), extra, call.id), work.body)
        worker.send(envelope)
        if work.files:
            call.sending = self._loop.create_task(self._send_files(call, worker))

    async def _send_files(self, call: Call, worker: Peer) -> None:
        try:
            for file in call.work.files:
                await file.send(worker.send_piece)
        except (OSError, EOFError):
            self.end("a file of a request could not be read")

    def _finish(self, call: Call, reply: Reply | Unread) -> None:
        call.ended = perf_counter()
        if not call.reply.done():  # else its caller was cancelled
            call.reply.set_result(reply)
        self._connections.settled()
        self._leave(call)
        self._next()

    def _leave(self, call: Call) -> None:
        """It needs the connection no more."""
        if call.sending is not None:
            call.sending.cancel()
        if call.events is not None:
            call.events.end()

    def _next(self) -> None:
        self._running = None
        while self._waiting and self._running is None:
            following = self._waiting.popleft()
            if not following.reply.done():
                self._begin(following)

    def _time(self, call: Call, when: float, step: Callable[[Call], None]) -> None:
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

    def _no_worker(self, call: Call) -> None:
        self.end("no fresh worker greeted in time")

    def _deadline(self, call: Call) -> None:
        call.phase = Phase.OVERDUE
        self._connections.restart()
        self._time(call, self._loop.time() + _RESTART_S, self._late)

    def _late(self, call: Call) -> None:
        # The client hears in time; the worker, on a busy machine, may take longer. The next call waits for it.
        call.ended = perf_counter()
        if not call.reply.done():
            call.reply.set_result(call.timed_out())
        self._time(call, self._loop.time() + _LATE_S, self._not_restarted)

    def _not_restarted(self, call: Call) -> None:
        self.end("no fresh worker greeted in time after a deadline")

    def _unexplained(self, call: Call) -> None:
        self._connections.restart()
        self._finish(call, WorkerDied(None, None))

    def _explained(self, call: Call) -> None:
        self._connections.drop_worker()
        self._finish(call, call.died())

    # --- what the connections tell ---

    def refuses(self, kind: int, length: int, extra: int, call_id: int) -> str | None:
        call = self._running
        if call is None or call.phase is not Phase.SENT:
            return "a frame that no call waits for"
        if call_id != call.id or not (kind in frames.REPLIES or (kind in frames.EVENTS and call.events is not None)):
            return "a frame that is no reply to the running call"
        if length > self._max_reply_bytes or extra > self._max_content_bytes:
            return "a reply over the limit"
        if (extra or kind == frames.CONTENT) and not _may_have_content(kind, call.work.forms):
            return "content that was not asked for"
        return None

    def received(self, kind: int, body: bytes, content: Incoming | None) -> None:
        call = self._running
        if call is None:
            return
        if kind in frames.EVENTS:
            self._tell(call, read_event(kind, body))
        elif content is not None:
            self._begin_content(call, _with_content(kind, body, content, call.work.forms), content)
        elif kind == frames.CONTENT:
            self._finish(call, read_in_form(body, Whole(b""), call.work.forms))
        else:
            self._finish(call, read_reply(kind, body))

    def _tell(self, call: Call, event: Event) -> None:
        worker, events = self._connections.worker, call.events
        if worker is not None and events is not None and not events.tell(event):
            worker.pause_reading()
            events.when_room(worker.resume_reading)

    def _begin_content(self, call: Call, reply: InForm | Unread, content: Incoming) -> None:
        call.phase = Phase.REPLIED
        call.ended = perf_counter()
        call.content = content
        if call.reply.done():  # its caller was cancelled
            content.drop()
        else:
            call.reply.set_result(reply)
        self._connections.settled()
        self._leave(call)
        self._watch_content(call)

    def _watch_content(self, call: Call) -> None:
        if call.content is not None:
            call.missing = call.content.missing
            self._time(call, self._loop.time() + _STALL_S, self._look_at_content)

    def _look_at_content(self, call: Call) -> None:
        content = call.content
        if content is not None and not content.waited() and call.missing - content.missing < _STALL_BYTES:
            self.end("the runner stopped sending in the middle of a value, or all but did")
        else:
            self._watch_content(call)

    def content_ended(self) -> None:
        call = self._running
        if call is not None and call.phase is Phase.REPLIED:
            if call.exited is not None:
                self._connections.drop_worker()
            self._next()

    def _content_cut(self, call: Call) -> None:
        self._connections.drop_worker()
        self._next()

    def preloaded(self, preloaded: Preloaded) -> None:
        if self._preloaded is not None and not self._preloaded.done():
            self._preloaded.set_result(preloaded)

    def supervisor_came(self) -> None:
        if not self.greeted.done():
            self.greeted.set_result(None)

    def worker_came(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        call = self._running
        if call is None:
            return
        if call.phase is Phase.OVERDUE:
            self._finish(call, call.timed_out())
        elif call.phase is Phase.UNSENT:
            if call.reply.done():  # its caller was cancelled meanwhile
                self._next()
            else:
                self._send(call)

    def worker_left(self) -> None:
        call = self._running
        if call is not None and call.phase is Phase.REPLIED:
            self._next()
        if call is None or call.phase is not Phase.SENT:
            return
        if call.exited is not None:
            self._explained(call)
            return
        call.phase = Phase.BEREFT
        self._connections.drop_worker()
        self._time(call, min(self._loop.time() + _EXITED_S, call.deadline), self._unexplained)

    def worker_exited(self, exited: Exited) -> None:
        call = self._running
        if call is None or call.phase is Phase.UNSENT:
            self._connections.drop_worker()
        elif call.phase is Phase.BEREFT:
            call.exited = exited
            self._finish(call, call.died())
        elif call.phase is Phase.OVERDUE:
            call.exited = call.exited or exited  # that of its own worker came first
        elif call.phase is Phase.SENT:
            call.exited = exited
            self._time(call, min(self._loop.time() + _LAST_WORDS_S, call.deadline), self._explained)
        elif call.phase is Phase.REPLIED:
            call.exited = exited
            self._time(call, self._loop.time() + _LAST_WORDS_S, self._content_cut)

    def end(self, reason: str) -> None:
        if self._ended is None:
            log.warning("channel_ended", sandbox=self._sandbox_id, reason=reason)
            self._close(reason)

    def _close(self, reason: str) -> None:
        if self._ended is not None:
            return
        self._ended = reason
        self._connections.close()
        for waiter in (self.greeted, self._arrival, self._preloaded):
            if waiter is not None and not waiter.done():
                waiter.set_exception(SandboxLost(reason))
        for call in (*([self._running] if self._running else ()), *self._waiting):
            if not call.reply.done():
                call.reply.set_result(Violation(reason, sent=call.phase is not Phase.UNSENT))
            if call.phase is not Phase.UNSENT:  # else it may be made anew, and tell its events then
                self._leave(call)
        self._running = None
        self._waiting.clear()
        if self._alarm is not None:
            self._alarm.cancel()


def _may_have_content(kind: int, forms: tuple[str, ...]) -> bool:
    return bool(forms) if kind == frames.CONTENT else kind == frames.VALUE and frames.TYPED in forms


def _with_content(kind: int, body: bytes, content: Incoming, forms: tuple[str, ...]) -> InForm | Unread:
    """Raises `Malformed`."""
    if kind == frames.CONTENT:
        return read_in_form(body, content, forms)
    read_reply(kind, body)
    return Unread(body, content)
