"""Calls over the connections to one runner: one at a time, each with its deadline, whatever becomes of the worker."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter

from runner import frames

from orchestrator.sandboxes.channel import RunnerConfig
from orchestrator.sandboxes.connections import Connections, Owner
from orchestrator.sandboxes.content import Whole
from orchestrator.sandboxes.events import Event
from orchestrator.sandboxes.incoming import Incoming
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.pending import Call, Phase, Unread
from orchestrator.sandboxes.replies import (
    MAX_HEAD_BYTES,
    Exited,
    InForm,
    Reply,
    TimedOut,
    Violation,
    WorkerDied,
    read_event,
    read_in_form,
    read_reply,
)
from orchestrator.sandboxes.wire import Peer
from orchestrator.sandboxes.work import send

# What a reply may hold beside its value and output: a traceback, a type, timing.
_REPLY_SLACK_BYTES = 256 * 1024
# stdout and stderr, each byte of which JSON may write as \uXXXX.
_OUTPUT_GROWTH = 2 * 6
# A fresh worker after a deadline; past it the client hears all the same, since it is to hear within 250 ms.
_RESTART_S = 0.2
# How much longer a fresh worker may take then, before the sandbox is given up.
_LATE_S = 10.0
# So much of a reply's content has to come in so many seconds, as long as it is waited for: what dribbles is given up.
_STALL_S = 10.0
_STALL_BYTES = 4 * 1024 * 1024
# From the end of a worker's connection to the report of its end.
_EXITED_S = 3.0
# From that report to the end of its connection: what it sent before is read first. A child of it may keep it open.
_LAST_WORDS_S = 0.05
# How much longer than its own timeout a call waits for a worker that is to come.
_WORKER_S = 5.0


class Calls:
    """The calls of one channel, and the connections that they go over."""

    def __init__(self, link: Link, owner: Owner) -> None:
        """`owner`: of the connections; its `end` is how all ends that a call cannot get over."""
        self._loop = asyncio.get_running_loop()
        self._end = owner.end
        self._max_reply_bytes = 0
        self._max_content_bytes = 0
        self.running: Call | None = None
        self._waiting: deque[Call] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self.connections = Connections(link, owner, self)

    def configure(self, config: RunnerConfig) -> None:
        """How large replies may be."""
        self._max_reply_bytes = config.max_reply_bytes + _OUTPUT_GROWTH * config.max_output_bytes + _REPLY_SLACK_BYTES
        self._max_content_bytes = config.max_content_bytes + MAX_HEAD_BYTES

    # --- whose turn it is ---

    async def turn(self, call: Call) -> Reply | Unread:
        """Wait while others run; its reply."""
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

    def begin(self, call: Call) -> None:
        """Run it, where none is `running`."""
        self.running = call
        if self.connections.worker is not None:
            self._send(call)
        else:
            self._time(call, self._loop.time() + call.timeout_s + _WORKER_S, self._no_worker)

    def _next(self) -> None:
        self.running = None
        while self._waiting and self.running is None:
            following = self._waiting.popleft()
            if not following.reply.done():
                self.begin(following)

    def close(self, reason: str) -> None:
        """The connections are closed: no call is left."""
        for call in (*([self.running] if self.running else ()), *self._waiting):
            if not call.reply.done():
                call.reply.set_result(Violation(reason, sent=call.phase is not Phase.UNSENT))
            if call.phase is not Phase.UNSENT:  # else it may be made anew, and tell its events then
                self._leave(call)
        self.running = None
        self._waiting.clear()
        if self._alarm is not None:
            self._alarm.cancel()

    # --- steps of the running call ---

    def _send(self, call: Call) -> None:
        worker = self.connections.worker
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
            await send(call.work.files, worker.send_piece)
        except (OSError, EOFError):
            self._end("a file of a request could not be read")

    def _finish(self, call: Call, reply: Reply | Unread) -> None:
        call.ended = perf_counter()
        if not call.reply.done():  # else its caller was cancelled
            call.reply.set_result(reply)
        self.connections.settled()
        self._leave(call)
        self._next()

    def _leave(self, call: Call) -> None:
        """It needs the connection no more."""
        if call.sending is not None:
            call.sending.cancel()
        if call.events is not None:
            call.events.end()

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
        call = self.running
        if call is None or call.step is None:
            return
        if call.due > self._loop.time():  # it was set for an earlier call
            self._time(call, call.due, call.step)
        else:
            call.step(call)

    def _no_worker(self, call: Call) -> None:
        self._end("no fresh worker greeted in time")

    def _deadline(self, call: Call) -> None:
        call.phase = Phase.OVERDUE
        self.connections.restart()
        self._time(call, self._loop.time() + _RESTART_S, self._late)

    def _late(self, call: Call) -> None:
        # The client hears in time; the worker, on a busy machine, may take longer. The next call waits for it.
        call.ended = perf_counter()
        if not call.reply.done():
            call.reply.set_result(call.timed_out())
        self._time(call, self._loop.time() + _LATE_S, self._not_restarted)

    def _not_restarted(self, call: Call) -> None:
        self._end("no fresh worker greeted in time after a deadline")

    def _unexplained(self, call: Call) -> None:
        self.connections.restart()
        self._finish(call, WorkerDied(None, None))

    def _explained(self, call: Call) -> None:
        self.connections.drop_worker()
        self._finish(call, call.died())

    # --- what the connections tell, of the worker ---

    def refuses(self, kind: int, length: int, extra: int, call_id: int) -> str | None:
        call = self.running
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
        call = self.running
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
        worker, events = self.connections.worker, call.events
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
        self.connections.settled()
        self._leave(call)
        self._watch_content(call)

    def _watch_content(self, call: Call) -> None:
        if call.content is not None:
            call.missing = call.content.missing
            self._time(call, self._loop.time() + _STALL_S, self._look_at_content)

    def _look_at_content(self, call: Call) -> None:
        content = call.content
        if content is not None and not content.waited() and call.missing - content.missing < _STALL_BYTES:
            self._end("the runner stopped sending in the middle of a value, or all but did")
        else:
            self._watch_content(call)

    def content_ended(self) -> None:
        call = self.running
        if call is not None and call.phase is Phase.REPLIED:
            if call.exited is not None:
                self.connections.drop_worker()
            self._next()

    def _content_cut(self, call: Call) -> None:
        self.connections.drop_worker()
        self._next()

    def worker_came(self) -> None:
        call = self.running
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
        call = self.running
        if call is not None and call.phase is Phase.REPLIED:
            self._next()
        if call is None or call.phase is not Phase.SENT:
            return
        if call.exited is not None:
            self._explained(call)
            return
        call.phase = Phase.BEREFT
        self.connections.drop_worker()
        self._time(call, min(self._loop.time() + _EXITED_S, call.deadline), self._unexplained)

    def worker_exited(self, exited: Exited) -> None:
        call = self.running
        if call is None or call.phase is Phase.UNSENT:
            self.connections.drop_worker()
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


def _may_have_content(kind: int, forms: tuple[str, ...]) -> bool:
    return bool(forms) if kind == frames.CONTENT else kind == frames.VALUE and frames.TYPED in forms


def _with_content(kind: int, body: bytes, content: Incoming, forms: tuple[str, ...]) -> InForm | Unread:
    """Raises `Malformed`."""
    if kind == frames.CONTENT:
        return read_in_form(body, content, forms)
    read_reply(kind, body)
    return Unread(body, content)
