"""A TCP port on the sandbox's own loopback that leads to a Unix socket.

A builder sandbox has no network; its one way out is a proxy that listens on a Unix socket. HTTP clients only know
proxies by host and port, so this stands between.
"""

import contextlib
import socket
import threading
from pathlib import Path
from typing import Iterator

CHUNK_BYTES = 65_536


@contextlib.contextmanager
def forwarding(target: Path) -> Iterator[int]:
    """Forward a free port of 127.0.0.1 to the socket `target` as long as the context lasts. Yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=_accept, args=(listener, target), daemon=True)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # closing it alone would not wake who waits in accept()
            accepting.join()


def _accept(listener: socket.socket, target: Path) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # the context is over
            return
        threading.Thread(target=_serve, args=(client, target), daemon=True).start()


def _serve(client: socket.socket, target: Path) -> None:
    upstream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with client, upstream:
        try:
            upstream.connect(str(target))
        except OSError:  # closing the client tells it
            return
        back = threading.Thread(target=_copy, args=(upstream, client), daemon=True)
        back.start()
        _copy(client, upstream)
        back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the source ends, then end the sink's direction; the other direction goes on."""
    with contextlib.suppress(OSError):
        while True:
            data = source.recv(CHUNK_BYTES)
            if not data:
                break
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
