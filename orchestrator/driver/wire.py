"""Messages on a Unix socket: length, then bytes; and a descriptor beside one. Sockets are non-blocking."""

import asyncio
import os
import socket
import struct
from pathlib import Path

_LENGTH = struct.Struct("!I")


async def connected(path: Path) -> socket.socket:
    """Raises `OSError`."""
    # Through a descriptor of its directory, so that the path may be as long as it likes.
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            await asyncio.get_running_loop().sock_connect(sock, f"/proc/self/fd/{directory}/{path.name}")
        except BaseException:
            sock.close()
            raise
    finally:
        os.close(directory)
    return sock


async def send(sock: socket.socket, message: bytes) -> None:
    """Raises `OSError`: the other end is gone."""
    await asyncio.get_running_loop().sock_sendall(sock, _LENGTH.pack(len(message)) + message)


def send_with_descriptor(sock: socket.socket, message: bytes, descriptor: int) -> None:
    """A small message on a connection that carries nothing yet, so that it does not wait. Raises `OSError`."""
    frame = _LENGTH.pack(len(message)) + message
    if socket.send_fds(sock, [frame], [descriptor]) != len(frame):
        msg = "the connection took no more"
        raise OSError(msg)


async def receive(sock: socket.socket, limit: int) -> bytes:
    """One message. A descriptor that comes with it is dropped by the kernel. Raises `EOFError`, `OSError`: it is longer
    than `limit`, among others; memory follows what has arrived, not what is announced."""
    return await _body(sock, await _exactly(sock, _LENGTH.size), limit)


async def receive_with_descriptor(sock: socket.socket, limit: int) -> tuple[bytes, int | None]:
    """One message, and the descriptor that came with it; the caller owns it. Raises `EOFError`, `OSError`."""
    await _readable(sock)
    length, descriptors, _, _ = socket.recv_fds(sock, _LENGTH.size, 1, socket.MSG_CMSG_CLOEXEC)
    try:
        if not length:
            raise EOFError
        length += await _exactly(sock, _LENGTH.size - len(length))
        body = await _body(sock, length, limit)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return body, descriptors[0] if descriptors else None


async def _body(sock: socket.socket, header: bytes, limit: int) -> bytes:
    (length,) = _LENGTH.unpack(header)
    if length > limit:
        msg = f"a message of {length} bytes is over the limit"
        raise OSError(msg)
    return await _exactly(sock, length)


async def _exactly(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    while len(data) < count:
        chunk = await loop.sock_recv(sock, min(count - len(data), 65_536))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock.fileno())
