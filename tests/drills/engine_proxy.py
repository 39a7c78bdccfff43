"""A proxy in front of an engine's socket that can be told to misbehave, in the ways that engines do."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

ENGINE = "/var/run/docker.sock"
SLOW_S = 0.3
_CHUNK_BYTES = 65_536


class Fault(Enum):
    NONE = "none"
    GONE = "gone"  # nobody listens
    RESET = "reset"  # connections are cut before an answer
    HANG = "hang"  # requests are taken, and never answered
    ERROR = "error"  # 500
    GARBAGE = "garbage"  # what is no HTTP
    TRUNCATED = "truncated"  # the engine does as it is asked, and its answer is cut off
    LOST = "lost"  # the engine does as it is asked, and its answer never arrives
    SLOW = "slow"


_ANSWERS = {
    Fault.ERROR: b'HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{"message":"oops"}',
    Fault.GARBAGE: b"\x15\x03\x01\x00\x02\x02\x28" * 100,
}


class EngineProxy:
    """Listens at `path`, passes on to `engine`. What stands when a fault begins is cut, as when an engine goes away."""

    def __init__(self, path: Path, engine: str = ENGINE) -> None:
        self.path = path
        self._engine = engine
        self._fault = Fault.NONE
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._listen()

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    @contextmanager
    def fault(self, fault: Fault) -> Iterator[None]:
        self.become(fault)
        try:
            yield
        finally:
            self.become(Fault.NONE)

    def become(self, fault: Fault) -> None:
        self._fault = fault
        self._cut()
        if fault is Fault.GONE:
            self._stop_listening()
        elif self._listener is None:
            self._listen()

    def close(self) -> None:
        self._stop_listening()
        self._cut()

    def _listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.path.unlink(missing_ok=True)

    def _cut(self) -> None:
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client = listener.accept()[0]
                threading.Thread(target=self._serve, args=(client, self._fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: Fault) -> None:
        self._open.add(client)
        with client, suppress(OSError):
            if fault in (Fault.NONE, Fault.SLOW, Fault.TRUNCATED, Fault.LOST):
                self._pass_on(client, fault)
            elif client.recv(1):  # a request has come; the rest of it is never read
                client.sendall(_ANSWERS.get(fault, b""))
                while fault is Fault.HANG and client.recv(_CHUNK_BYTES):
                    pass
        self._open.discard(client)

    def _pass_on(self, client: socket.socket, fault: Fault) -> None:
        with socket.socket(socket.AF_UNIX) as engine:
            self._open.add(engine)
            engine.connect(self._engine)
            asking = threading.Thread(target=_copy, args=(client, engine, fault), daemon=True)
            asking.start()
            if fault is Fault.TRUNCATED:
                client.sendall(engine.recv(_CHUNK_BYTES)[:-10])
            else:
                _copy(engine, client, fault)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            asking.join()
            self._open.discard(engine)


def _copy(source: socket.socket, sink: socket.socket, fault: Fault) -> None:
    answers = source.getpeername() not in ("", b"")  # the engine's end has a name
    with suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            if fault is Fault.SLOW:
                time.sleep(SLOW_S)
            if not (fault is Fault.LOST and answers):
                sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def engine_proxy(path: Path, engine: str = ENGINE) -> Iterator[EngineProxy]:
    proxy = EngineProxy(path, engine)
    try:
        yield proxy
    finally:
        proxy.close()
