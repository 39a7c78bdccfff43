"""Starts the workers, starts another for one that ends or hangs, and ends them in order."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

from fastapi import FastAPI
from starlette.types import ASGIApp

from orchestrator.api.admission import Refuser
from orchestrator.errors import KodouError
from orchestrator.settings import Settings
from orchestrator.telemetry import WORKER_RESTARTS, WORKERS, log
from orchestrator.workers.counts import Counts
from orchestrator.workers.owner import WorkerLink

START_S = 60.0
# One that ended sooner than this is not started again at once.
STEADY_S = 10.0
# One that leaves so many questions unanswered, each for so long, hangs. By their number: an owner that was held up itself
# finds the answers waiting.
ASK_S = 10.0
MOST_UNANSWERED = 3
LEAST_PAUSE_S = 0.2
MOST_PAUSE_S = 30.0
# For refusals to get out when the time for running calls is over, and for a process to end whose socket has closed.
_LAST_WORDS_S = 2.0
_SETTINGS = {
    "data_dir",
    "shutdown_s",
    "max_connections",
    "max_head_bytes",
    "max_unread_bytes",
    "header_timeout_s",
    "body_timeout_s",
    "reply_timeout_s",
    "keep_alive_s",
    "log_format",
    "log_level",
}


async def serve(app: FastAPI, refusal: Refuser, listener: socket.socket, settings: Settings) -> None:
    """Serve `app` by workers until SIGTERM or SIGINT, as `server.serve` does it in one process."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if stopped.is_set():
            os._exit(128 + number)  # the workers end with this process
        log.info("stopping", signal=signal.Signals(number).name)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    workers = Workers(app, refusal, listener, settings)
    async with app.router.lifespan_context(app):
        await workers.start()
        await stopped.wait()
        await workers.stop()


class Worker:
    """A process, and the way to it."""

    def __init__(self, process: "subprocess.Popen[bytes]", link: WorkerLink) -> None:
        self.process = process
        self.link = link

    async def ready(self) -> None:
        """Raises: KodouError: it ended instead, or takes too long."""
        ends = [asyncio.create_task(event.wait()) for event in (self.link.ready, self.link.closed)]
        await asyncio.wait(ends, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if not self.link.ready.is_set():
            self.process.kill()
            msg = f"an API process did not start: it ended with {await self.ended()}"
            raise KodouError(msg)

    async def ended(self) -> int:
        """The exit code, once it has ended or closed its socket, whereupon it has to end."""
        await self.link.closed.wait()
        return await asyncio.to_thread(_ended, self.process)

    async def watch(self) -> None:
        """Kill it once it hangs: its connections are lost, and its place is another's."""
        unanswered = 0
        while unanswered < MOST_UNANSWERED:
            self.link.ask()
            await asyncio.sleep(ASK_S)
            unanswered = 0 if self.link.alive else unanswered + 1
        log.warning("an API process hangs, and is ended", worker=self.process.pid)
        self.process.kill()


class Workers:
    """All workers of a server."""

    def __init__(self, app: ASGIApp, refusal: Refuser, listener: socket.socket, settings: Settings) -> None:
        self._app = app
        self._refusal = refusal
        self._listener = listener
        self._settings = settings
        self._counts = Counts.created(settings.workers)
        self._workers: dict[int, Worker] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._requests: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Returns once all of them accept connections. Raises: KodouError, OSError: one did not."""
        try:
            workers = await asyncio.gather(*(self._begin(number) for number in range(self._settings.workers)))
        except BaseException:
            self._kill()
            raise
        self._keepers = [asyncio.create_task(self._keep(*each)) for each in enumerate(workers)]

    async def stop(self) -> None:
        """Accept no more; what runs has `shutdown_s` to end, and is then refused."""
        self._stopping.set()
        self._listener.close()
        for worker in self._workers.values():
            worker.link.stop()
        try:
            async with asyncio.timeout(self._settings.shutdown_s):
                await asyncio.gather(*self._keepers)
                while self._requests:  # of clients that have left
                    await asyncio.wait(self._requests)
        except TimeoutError:
            log.warning("requests are not waited for any longer", requests=len(self._requests))
            for task in self._requests:
                task.cancel()
            if self._workers:
                await asyncio.wait(
                    [asyncio.create_task(each.ended()) for each in self._workers.values()], timeout=_LAST_WORDS_S
                )
        self._kill()
        self._counts.close()

    async def _keep(self, number: int, worker: Worker | None) -> None:
        """See a worker to its end, and start another, until there are to be none."""
        pause_s = 0.0
        while True:
            began = time.monotonic()
            if worker is not None:
                await self._see_off(number, worker)
            if self._stopping.is_set():
                return
            pause_s = min(MOST_PAUSE_S, 2 * pause_s or LEAST_PAUSE_S) if time.monotonic() - began < STEADY_S else 0.0
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
                return
            WORKER_RESTARTS.inc()
            worker = None
            try:
                worker = await self._begin(number)
            except (OSError, ValueError, KodouError) as exc:  # ValueError: the listener was closed meanwhile
                log.warning("no API process in place of the one that ended", error=str(exc))

    async def _begin(self, number: int) -> Worker:
        """Returns it once it accepts connections. Raises: KodouError, OSError."""
        process, ours = await asyncio.to_thread(_spawn, self._listener, self._counts, number, self._settings)
        link = WorkerLink(self._app, self._requests, self._refusal)
        worker = self._workers[number] = Worker(process, link)
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
        await worker.ready()
        WORKERS.inc()
        if self._stopping.is_set():
            link.stop()
        return worker

    async def _see_off(self, number: int, worker: Worker) -> None:
        watching = asyncio.create_task(worker.watch())
        try:
            code = await worker.ended()
        finally:
            watching.cancel()
        WORKERS.dec()
        del self._workers[number]
        self._counts.clear(number)
        if not self._stopping.is_set():
            log.warning("an API process ended: another takes its place", worker=worker.process.pid, code=code)

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()


def _spawn(
    listener: socket.socket, counts: Counts, number: int, settings: Settings
) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    values = settings.model_dump(mode="json", include=_SETTINGS)
    # The owner keeps the time: at its end it refuses what still runs, and a worker has to pass that on.
    values["shutdown_s"] += 2 * _LAST_WORDS_S
    descriptors = [theirs.fileno(), listener.fileno(), counts.descriptor]
    arguments = [*map(str, [*descriptors, number, settings.workers]), json.dumps(values)]
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", "orchestrator.workers", *arguments],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=descriptors,
                start_new_session=True,  # a signal to the terminal's group is the owner's to deal with
            )
    except BaseException:
        ours.close()
        raise
    return process, ours


def _ended(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(_LAST_WORDS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
