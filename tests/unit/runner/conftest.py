"""The real runner as a child process, with the orchestrator's end of the link played by the test."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import runner
from runner import frames
from runner.evaluation import results

BOOT = Path(runner.__file__).with_name("boot.py")
CONFIG: dict[str, Any] = {
    "env": {},
    "max_reply_bytes": 1 << 20,
    "max_content_bytes": 1 << 20,
    "max_output_bytes": 4096,
    "max_items": 1000,
    "max_references": 10,
    "max_reference_bytes": 1 << 20,
    "first": True,
    "orphan_s": 30,
    "fsize_bytes": 1 << 24,
}
# A wait that takes this long has failed.
PATIENCE_S = 30
LARGEST = 1 << 30


@dataclass
class Reply:
    kind: int
    body: dict[str, Any]


class Orchestrator:
    """Listens where a runner connects to, speaks frames with it, and ends it."""

    def __init__(self, directory: Path, command: Sequence[str], code: Path, *, listening: bool) -> None:
        self.directory = directory
        self.code = code
        self.listener: socket.socket | None = None
        self.control: socket.socket | None = None
        self.calls: socket.socket | None = None
        if listening:
            self.listen()
        self.process = subprocess.Popen([*command, "-I", str(BOOT), str(directory / "s")])

    def listen(self) -> None:
        """Listen, anew if need be."""
        self.close(self.listener)
        (self.directory / "s").unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(PATIENCE_S)
        # Through a descriptor: the path may be longer than an address.
        descriptor = os.open(self.directory, os.O_PATH)
        self.listener.bind(f"/proc/self/fd/{descriptor}/s")
        os.close(descriptor)
        self.listener.listen()

    def accept(self) -> tuple[socket.socket, dict[str, Any]]:
        """A connection and its greeting."""
        assert self.listener is not None
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE_S)
        frame = receive(sock)
        assert frame is not None
        assert frame.kind == frames.HELLO
        return sock, json.loads(frame.body)

    def accept_control(self) -> dict[str, Any]:
        self.close(self.control)
        self.control, hello = self.accept()
        assert hello["role"] == "supervisor"
        return hello

    def accept_worker(self) -> dict[str, Any]:
        former = self.calls  # closed after: a worker that is about to be killed would come back
        self.calls, hello = self.accept()
        self.close(former)
        assert hello["role"] == "worker"
        return hello

    def configure(self, **changed: Any) -> None:
        self.tell(frames.CONFIG, json.dumps({**CONFIG, **changed}).encode())

    def start(self, **changed: Any) -> "Orchestrator":
        """From the first greeting to a worker that takes calls, and that finds the test's modules."""
        self.accept_control()
        self.configure(**changed)
        self.accept_worker()
        self.find_code()
        return self

    def find_code(self) -> None:
        self.value("sys.path.insert", 0, str(self.code))

    def tell(self, kind: int, body: bytes = b"") -> None:
        assert self.control is not None
        self.control.sendall(frames.encode(kind, body))

    def report(self) -> dict[str, Any]:
        assert self.control is not None
        frame = receive(self.control)
        assert frame is not None
        assert frame.kind == frames.EXITED
        return json.loads(frame.body)

    def send(
        self, request: dict[str, Any] | bytes, *, kind: int = frames.CALL, flags: int = 0, call_id: int = 7
    ) -> None:
        assert self.calls is not None
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.calls.sendall(frames.encode(kind, body, call_id=call_id, flags=flags))

    def reply(self, *, call_id: int = 7) -> Reply:
        assert self.calls is not None
        frame = receive(self.calls)
        assert frame is not None
        assert frame.call_id == call_id
        return Reply(frame.kind, json.loads(frame.body))

    def call(self, namepath: Any, *args: Any, **kwargs: Any) -> Reply:
        self.send({"namepath": namepath, "args": args, "kwargs": kwargs})
        return self.reply()

    def value(self, namepath: Any, *args: Any, **kwargs: Any) -> Any:
        reply = self.call(namepath, *args, **kwargs)
        assert reply.kind == frames.VALUE, reply.body
        return reply.body["value"]

    def call_ends(self) -> bool:
        """Whether the worker's connection comes to its end with nothing said."""
        assert self.calls is not None
        try:
            return receive(self.calls) is None
        except ConnectionResetError:
            return True

    @staticmethod
    def close(sock: socket.socket | None) -> None:
        if sock is not None:
            sock.close()

    def end(self) -> None:
        for sock in (self.control, self.calls, self.listener):
            self.close(sock)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_S)


def receive(sock: socket.socket) -> frames.Frame | None:
    """A frame from a socket that has a timeout (MSG_WAITALL of such a socket may return early, as with a signal)."""
    return frames.read(sock, max_bytes=LARGEST)


@pytest.fixture(autouse=True)
def no_event_loop_is_left() -> Iterator[None]:
    """A worker keeps its loop to its end; here the process goes on."""
    yield
    if results._loop is not None:
        results._loop.close()


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A directory for modules of the test's."""
    directory = tmp_path / "code"
    directory.mkdir()
    return directory


@pytest.fixture
def launch(tmp_path: Path, code: Path) -> Iterator[Callable[..., Orchestrator]]:
    """Launches a runner, which has not greeted yet."""
    launched: list[Orchestrator] = []

    def launch(*command: str, directory: Path = tmp_path, listening: bool = True) -> Orchestrator:
        """`command` ends in an interpreter; this one if there is none."""
        launched.append(Orchestrator(directory, command or [sys.executable], code, listening=listening))
        return launched[-1]

    yield launch
    for orchestrator in launched:
        orchestrator.end()


@pytest.fixture
def session(launch: Callable[..., Orchestrator]) -> Orchestrator:
    """A runner that takes calls."""
    return launch().start()


@pytest.fixture
def leash(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A FIFO: whoever opens its path for writing is known to be dead when the descriptor, its other end, reads EOF."""
    path = tmp_path / "leash"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, descriptor
    os.close(descriptor)
