"""Large values there and back: floats as JSON, and the same as bytes, beside the least that any process could do."""

import json
import socket
import struct
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import numpy

from benchmarks.wire import Wire

SIZES_MB = (1, 10)
BOUNDARY = b"kodou-bench"
ASARRAY = ["numpy", "asarray"]
_LENGTH = struct.Struct(">I")


def floats(megabytes: int) -> list[float]:
    """Numbers that take about so many megabytes as JSON."""
    count = megabytes * 1_000_000 // 20
    return [float(number) for number in numpy.random.default_rng(1).random(count)]


class Floor:
    """Another process behind a socket, which reads JSON into an array and writes it back. No HTTP, no checks."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._process: BaseProcess = get_context("spawn").Process(target=_echo, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, body: bytes) -> bytes:
        return _exchange(self._socket, body)

    def close(self) -> None:
        self._socket.close()
        self._process.join(10)


def _exchange(connection: socket.socket, body: bytes) -> bytes:
    connection.sendall(_LENGTH.pack(len(body)))
    connection.sendall(body)
    return _receive(connection)


def _receive(connection: socket.socket) -> bytes:
    header = connection.recv(_LENGTH.size, socket.MSG_WAITALL)
    return connection.recv(_LENGTH.unpack(header)[0], socket.MSG_WAITALL) if header else b""


def _echo(connection: socket.socket) -> None:
    while body := _receive(connection):
        answer = json.dumps({"value": numpy.asarray(json.loads(body)["args"][0]).tolist()}).encode()
        connection.sendall(_LENGTH.pack(len(answer)))
        connection.sendall(answer)


class LargeValues:
    """One session, asked for the same array in both forms."""

    def __init__(self, wire: Wire, sessionid: str) -> None:
        self._wire = wire
        self._requests = {size: (self._json(sessionid, size), self._bytes(sessionid, size)) for size in SIZES_MB}
        # Megabytes a second, there and back together, by size and form.
        self.rates: dict[tuple[int, str], list[float]] = {}

    def measure(self) -> None:
        for size, requests in self._requests.items():
            for form, request in zip(("JSON", "bytes"), requests, strict=True):
                began = time.perf_counter()
                status, reply = self._wire.send(request)
                seconds = time.perf_counter() - began
                if status != 200 or reply.startswith(b'{"error":true'):
                    raise RuntimeError(reply[:300])
                self.rates.setdefault((size, form), []).append((len(request) + len(reply)) / seconds / 1e6)

    def _json(self, sessionid: str, size: int) -> bytes:
        body = json.dumps({"sessionid": sessionid, "namepath": ASARRAY, "args": [floats(size)]}).encode()
        return self._wire.request("POST", "/environment/python/call", body)

    def _bytes(self, sessionid: str, size: int) -> bytes:
        data = numpy.random.default_rng(1).bytes(size * 1_000_000)
        array = {"$array": "data", "dtype": "<f8", "shape": [len(data) // 8]}
        call = json.dumps({"sessionid": sessionid, "namepath": ASARRAY, "args": [array]}).encode()
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
        body = b"".join(
            (
                head % (BOUNDARY, b"call", b"\r\nContent-Type: application/json"),
                call + b"\r\n",
                head % (BOUNDARY, b"data", b'; filename="data"\r\nContent-Type: application/octet-stream'),
                data + b"\r\n--%b--\r\n" % BOUNDARY,
            )
        )
        return self._wire.request(
            "POST",
            "/environment/python/call",
            body,
            content_type=f"multipart/form-data; boundary={BOUNDARY.decode()}",
            accept="application/octet-stream",
        )


def plain_rate(send: Wire | Floor, size: int) -> float:
    """Megabytes a second of what stands beside kodou: the floor, or the peer's endpoint."""
    body = json.dumps({"args": [floats(size)]}).encode()
    request = send.request("POST", "/echo", body) if isinstance(send, Wire) else body
    began = time.perf_counter()
    reply = send.send(request)
    seconds = time.perf_counter() - began
    return (len(body) + len(reply[1] if isinstance(reply, tuple) else reply)) / seconds / 1e6
