"""Process 1 of a sandbox: forks the worker that runs calls, collects who ends, and kills everything when told to.

It blocks until something happens, and keeps no time but while it has no connection. The signals that a call may send it
do nothing: as process 1 it leaves them at their default, which the kernel then does not deliver. Where it is a plain
process, SIGTERM and SIGINT end it and all below it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from . import frames, loop
from .children import guard_supervisor, kill_all, reap, release_worker
from .link import FIRST_RETRY_S, LAST_RETRY_S, ORPHAN_S, connect_control
from .place import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any, NoReturn

    from .egress import Egress

_MAX_CONTROL_BYTES = 4 * 1024 * 1024
# A worker that ends sooner than this after its start is hasty; many in a row are slowed down.
_HASTY_S = 0.05
_HASTY_MOST = 10
_HASTY_PAUSE_S = 0.05
_FORK_ATTEMPTS = 500
_FORK_PAUSE_S = 0.002


def run(path: str, control: socket) -> NoReturn:
    """Supervise until STOP, or until nobody has listened at the socket `path` for too long. Does not return."""
    Supervisor(path, control).run()


class Supervisor:
    _place: Place  # of the worker; there is none before one is due, as all that is forked by then would share it

    def __init__(self, path: str, control: socket) -> None:
        """`control` is connected to `path` and greeted."""
        self._path = path
        self._environ = dict(os.environ)
        self._config: dict[str, Any] | None = None
        self._egress: Egress | None = None
        self._worker = 0
        self._generation = 0
        self._started_at = 0.0
        self._hasty = 0
        self._orphan_s = ORPHAN_S
        self._orphaned_at = time.monotonic() + ORPHAN_S
        self._retry_s = FIRST_RETRY_S
        self._answered = False  # a frame came over this connection; a listener that hangs up at once is none
        self._awake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._awake, select.POLLIN)
        self._control: socket | None = None
        self._use(control)

    def run(self) -> NoReturn:
        guard_supervisor()
        self._take_signals()
        while True:
            if self._control is None:
                self._reconnect()
            self._wait(None)

    def _take_signals(self) -> None:
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the wake-up is all
        if os.getpid() == 1:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._end())

    def _end(self) -> NoReturn:
        kill_all()
        os._exit(0)

    # --- the connection ---

    def _use(self, control: socket) -> None:
        self._control = control
        self._ends = 0  # of workers, reported over this connection
        self._poll.register(control.fileno(), select.POLLIN)

    def _disconnect(self, control: socket) -> None:
        self._poll.unregister(control.fileno())
        control.close()
        self._control = None
        if self._answered:
            self._answered = False
            self._retry_s = FIRST_RETRY_S
            self._orphaned_at = time.monotonic() + self._orphan_s

    def _reconnect(self) -> None:
        while True:
            self._wait(self._retry_s)
            self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
            if time.monotonic() >= self._orphaned_at:
                self._end()
            try:
                self._use(connect_control(self._path))
            except OSError:
                continue
            return

    def _send(self, frame: bytes) -> None:
        """Send it, or drop it with a connection that is gone: the worker's next greeting tells what counts."""
        if self._control is None:
            return
        try:
            self._control.sendall(frame)
        except OSError:
            self._disconnect(self._control)

    def _wait(self, timeout_s: float | None) -> None:
        """Block until something happened, and see to it."""
        ready = {fd for fd, _ in self._poll.poll(None if timeout_s is None else timeout_s * 1000)}
        if self._awake in ready:
            os.read(self._awake, 4096)
            self._collect()
        control = self._control
        if control is not None and control.fileno() in ready:
            self._receive(control)

    def _receive(self, control: socket) -> None:
        try:
            frame = frames.read(control, max_bytes=_MAX_CONTROL_BYTES)
        except (OSError, frames.FrameError):
            frame = None
        if frame is None:
            self._disconnect(control)
            return
        self._answered = True
        self._handle(frame)

    def _handle(self, frame: frames.Frame) -> None:
        if frame.kind == frames.CONFIG:
            self._configure(json.loads(frame.body))
        elif frame.kind == frames.PRELOAD:
            self._preload(json.loads(frame.body))
        elif frame.kind == frames.RESTART:
            known = json.loads(frame.body)["ends"] if frame.body else self._ends
            if known == self._ends:  # else the worker that is meant has ended by itself, and all that it left
                self._restart()
        elif frame.kind == frames.STOP:
            self._end()

    # --- the worker ---

    def _configure(self, config: dict[str, Any]) -> None:
        os.environ.clear()
        os.environ.update(self._environ)
        if config.get("egress"):
            os.environ.update(self._let_out().variables())
        os.environ.update(config["env"])  # last: what the session asks for counts
        self._orphan_s = float(config["orphan_s"])
        self._config = config
        if not self._worker:
            self._place = Place()
            self._start_worker(config)

    def _preload(self, wanted: dict[str, Any]) -> None:
        from .preload import preload, resident_bytes  # only sandboxes that wait for a session do this

        preload(wanted["distributions"], self._leave_for_good)
        self._environ = dict(os.environ)  # with what imports have set
        self._send(frames.encode_json(frames.PRELOADED, {"bytes": resident_bytes()}))

    def _restart(self) -> None:
        kill_all()
        if self._config is not None:
            self._report()
            self._start_worker(self._config)

    def _collect(self) -> None:
        ended: dict[int, int] = {}
        reap(ended)
        if self._worker in ended and self._config is not None:
            self._replace(ended[self._worker], self._config)
        if self._egress is not None:
            self._egress.ended(ended, self._leave_for_good)

    def _replace(self, status: int, config: dict[str, Any]) -> None:
        """The worker ended by itself: nothing that it started outlives it."""
        kill_all()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if number is None else None
        self._report(code, number)
        self._hasty = self._hasty + 1 if time.monotonic() - self._started_at < _HASTY_S else 0
        if self._hasty > _HASTY_MOST:
            time.sleep(_HASTY_PAUSE_S)
        self._start_worker(config)

    def _report(self, code: int | None = None, number: int | None = None) -> None:
        """The worker's end, before there is another: its exit code or signal, unless it was killed here, and where it was."""
        self._ends += 1
        self._send(frames.encode_json(frames.EXITED, {"code": code, "signal": number, **self._place.take()}))

    def _start_worker(self, config: dict[str, Any]) -> None:
        self._generation += 1
        self._started_at = time.monotonic()
        supervisor = os.getpid()
        self._worker = _fork()
        if self._worker:
            if self._egress is not None:
                self._egress.start(self._leave_for_good)
            return
        try:
            self._leave()
            if self._egress is not None:
                self._egress.leave()
            loop.work(self._path, config, self._place, generation=self._generation, supervisor=supervisor)
        finally:
            os._exit(1)

    def _let_out(self) -> Egress:
        """The way out of the sandbox; forwarded from the first worker on."""
        if self._egress is None:
            from .egress import Egress  # few sandboxes have one

            self._egress = Egress(self._path)
        return self._egress

    def _leave_for_good(self) -> None:
        """In a fresh fork that is no worker."""
        supervisor = os.getppid()
        self._leave()
        os.setsid()
        release_worker(supervisor)

    def _leave(self) -> None:
        """In a fresh fork: let go of what is the supervisor's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(self._awake)
        os.close(self._waker)
        if self._control is not None:
            self._control.close()


def _fork(ended: dict[int, int] | None = None) -> int:
    """fork(2), with patience: processes that were just killed count towards limits until they are collected, into `ended`."""
    for _ in range(_FORK_ATTEMPTS):
        try:
            return os.fork()
        except OSError:
            reap(ended)
            time.sleep(_FORK_PAUSE_S)
    return os.fork()
