"""The process behind the floors: `python -m benchmarks.subjects.floor_server sum|same|fork <descriptor of a socket>`.

It imports no more than it needs, as what a process holds is part of what a fork of it takes.
"""

import json
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy

_LENGTH = struct.Struct(">I")


def send(connection: socket.socket, body: bytes) -> None:
    header = _LENGTH.pack(len(body))
    sent = connection.sendmsg([header, body])
    connection.sendall(memoryview(body)[sent - len(header) :])


def receive(connection: socket.socket) -> bytes:
    """One message; empty at the end."""
    header = connection.recv(_LENGTH.size, socket.MSG_WAITALL)
    return connection.recv(_LENGTH.unpack(header)[0], socket.MSG_WAITALL) if header else b""


def _sum(call: dict[str, Any]) -> object:
    return int(numpy.array(call["namepath"][1]["args"][0]).sum())


def _same(call: dict[str, Any]) -> object:
    return numpy.asarray(call["args"][0]).tolist()


def _answer(connection: socket.socket, function: Callable[[dict[str, Any]], object]) -> None:
    while body := receive(connection):
        send(connection, json.dumps({"value": function(json.loads(body))}).encode())


def _fork(connection: socket.socket) -> None:
    """Each call in a process of its own."""
    while body := receive(connection):
        if (child := os.fork()) == 0:
            send(connection, json.dumps({"value": _sum(json.loads(body))}).encode())
            os._exit(0)
        os.waitpid(child, 0)


def main() -> None:
    kind, descriptor = sys.argv[1:]
    with socket.socket(fileno=int(descriptor)) as connection:
        if kind == "fork":
            _fork(connection)
        else:
            _answer(connection, {"sum": _sum, "same": _same}[kind])


if __name__ == "__main__":
    main()
