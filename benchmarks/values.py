"""Large values there and back: floats as JSON, and the same as bytes."""

import json
import time
from collections.abc import Callable
from functools import cache

import numpy

from benchmarks.wire import Wire

SIZES_MB = (1, 10)
BOUNDARY = b"kodou-bench"
ASARRAY = ["numpy", "asarray"]


def floats(megabytes: int) -> list[float]:
    """Numbers that take about so many megabytes as JSON."""
    count = megabytes * 1_000_000 // 20
    return [float(number) for number in numpy.random.default_rng(1).random(count)]


@cache
def _body(size: int) -> bytes:
    return json.dumps({"args": [floats(size)]}).encode()


def plain(send: Callable[[bytes], bytes]) -> dict[str, list[float]]:
    """Megabytes a second of what stands beside kodou: the floor, or the peer's endpoint."""
    return {f"json-{size}": [rate(_body(size), send)] for size in SIZES_MB}


def rate(request: bytes, send: Callable[[bytes], bytes]) -> float:
    """Megabytes a second, there and back together."""
    began = time.perf_counter()
    reply = send(request)
    return (len(request) + len(reply)) / (time.perf_counter() - began) / 1e6


class LargeValues:
    """One session, asked for the same array in both forms."""

    def __init__(self, wire: Wire, sessionid: str) -> None:
        self._wire = wire
        self._requests = {
            f"{form}-{size}": make(sessionid, size)
            for size in SIZES_MB
            for form, make in (("json", self._json), ("bytes", self._bytes))
        }

    def measure(self) -> dict[str, list[float]]:
        return {what: [rate(request, self._send)] for what, request in self._requests.items()}

    def _send(self, request: bytes) -> bytes:
        status, reply = self._wire.send(request)
        if status != 200 or reply.startswith(b'{"error":true'):
            raise RuntimeError(reply[:300])
        return reply

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
