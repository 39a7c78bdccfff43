"""The least that any service could do: bytes over a Unix socket to a plain Python process. No HTTP, no checks, no sandbox."""

import json
import socket
import subprocess
import sys
from typing import Literal

from benchmarks import measures
from benchmarks.servers import ENVIRONMENT
from benchmarks.subjects.floor_server import receive, send
from benchmarks.subjects.interface import FUNCTION, PROGRAM, checked, repeated, timed

# As many bytes as the body of a call.
_CALL = json.dumps({"sessionid": "x" * 200, "namepath": FUNCTION}).encode()


class Floor:
    """`kind`: what the other process does with a call: sums its array, gives it back as it is, or sums it in a fork."""

    def __init__(self, kind: Literal["sum", "same", "fork"]) -> None:
        self.name = measures.FORK if kind == "fork" else measures.FLOOR
        self._kind = kind

    def __enter__(self) -> "Floor":
        self._socket, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "benchmarks.subjects.floor_server", self._kind, str(theirs.fileno())]
            self._process = subprocess.Popen(command, env=ENVIRONMENT, pass_fds=[theirs.fileno()])
        if self._kind != "same":
            checked(json.loads(self.send(_CALL))["value"])
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait(10)

    def send(self, body: bytes) -> bytes:
        send(self._socket, body)
        return receive(self._socket)

    def call(self, count: int) -> list[float]:
        return repeated(lambda: self.send(_CALL), count)

    def restart(self) -> float:
        return timed(lambda: self.send(_CALL))


class Interpreter:
    """How soon an answer can come from a new interpreter, unsandboxed."""

    name = measures.INTERPRETER

    def __enter__(self) -> "Interpreter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def restart(self) -> float:
        command = [sys.executable, "-c", PROGRAM]
        return timed(lambda: subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL))
