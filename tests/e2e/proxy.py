"""A proxy in front of an engine's socket, that can be told to refuse."""

import socket
import threading
from contextlib import suppress
from pathlib import Path


class SocketProxy:
    """Listens at `path` and passes on to `target`; after `refuse`, connections that stand are cut and new ones closed."""

    def __init__(self, path: Path, target: str) -> None:
        self._target = target
        self._refusing = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def refuse(self) -> None:
        self._refusing.set()
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def resume(self) -> None:
        self._refusing.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.refuse()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing.is_set():
                client.close()
                continue
            engine = socket.socket(socket.AF_UNIX)
            engine.connect(self._target)
            self._open |= {client, engine}
            for source, sink in ((client, engine), (engine, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        self._open.discard(source)
        if sink not in self._open:
            source.close()
            sink.close()
