"""SocketChannel: RunnerChannel over the two connections to one runner (`runner/frames.py`).

Nothing of the other end is trusted: not its lengths (a frame is refused by its header, and memory follows what has
arrived), not its order (a frame that nobody waits for ends the channel), not its words (bodies are checked, and nothing
is done on what they say), not its haste (every wait is bounded here). Only the orchestrator keeps time. A runner can lie
about its own sandbox's results, and about nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

import msgspec

from orchestrator.errors import SandboxLost
from orchestrator.sandboxes.calls import Calls
from orchestrator.sandboxes.channel import RunnerConfig
from orchestrator.sandboxes.events import Events
from orchestrator.sandboxes.greeting import await_greeting
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.pending import Call, Unread
from orchestrator.sandboxes.replies import Malformed, Preloaded, Reply, Violation
from orchestrator.sandboxes.typed import read_typed
from orchestrator.sandboxes.work import Run, Work
from orchestrator.telemetry import log

# A worker that an earlier server left busy; past it, it is replaced.
_ADOPTION_S = 5.0


async def greet(
    link: Link, timeout_s: float, *, ended: Callable[[], Awaitable[str | None]] | None = None
) -> "SocketChannel":
    """The channel to the runner that connects to `link`, once its supervisor has greeted. The channel owns the link.
    As `await_greeting`; the link is closed where it raises."""
    channel = SocketChannel(link)
    await await_greeting(channel, link.directory.name, timeout_s, ended)
    return channel


class SocketChannel:
    """Made by `greet`; belongs to the event loop it is made in."""

    def __init__(self, link: Link) -> None:
        self._loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self._sandbox_id = link.directory.name
        self._adopted = link.reopened
        self._ended: str | None = None  # why nothing can be called any more
        self._arrival: asyncio.Future[None] | None = None  # of a worker, for `configure`
        self._preloaded: asyncio.Future[Preloaded] | None = None
        self._calls = Calls(link, self)
        self._connections = self._calls.connections

    async def configure(self, config: RunnerConfig, *, timeout_s: float) -> None:
        self._calls.configure(config)
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
        calls = self._calls
        try:
            if calls.running is None:
                calls.begin(call)
                reply = await call.reply
            else:
                reply = await calls.turn(call)
        except asyncio.CancelledError:
            if call.content is not None:  # its reply came in the same moment: nobody else would read it to its end
                call.content.drop()
            raise
        return call.run(await self._read(reply) if isinstance(reply, Unread) else reply)

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
        return self._calls.running is None

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

    # --- what the connections tell their owner ---

    def supervisor_came(self) -> None:
        if not self.greeted.done():
            self.greeted.set_result(None)

    def preloaded(self, preloaded: Preloaded) -> None:
        if self._preloaded is not None and not self._preloaded.done():
            self._preloaded.set_result(preloaded)

    def worker_came(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        self._calls.worker_came()

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
        self._calls.close(reason)
