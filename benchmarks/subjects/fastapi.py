"""The function behind a FastAPI endpoint of one's own, in its own environment: uvicorn with uvloop and httptools."""

import json
from contextlib import ExitStack

from benchmarks import measures
from benchmarks.load import Crowd, crowd
from benchmarks.peers.venvs import python_of
from benchmarks.servers import in_process
from benchmarks.subjects.interface import checked, repeated
from benchmarks.wire import Wire

_BODY = b'{"values": [2, 4, 6]}'


class FastApi:
    """`path`: of the endpoint. Two of them share no server, so that neither is the other's neighbour."""

    def __init__(self, name: str = measures.FASTAPI, path: str = "/sum") -> None:
        self.name = name
        self._path = path

    def __enter__(self) -> "FastApi":
        with ExitStack() as stack:
            self._port = stack.enter_context(in_process(python_of("fastapi"))).port
            self._wire = Wire(self._port)
            stack.callback(self._wire.close)
            self._request = self._wire.request("POST", self._path, _BODY)
            checked(json.loads(self._wire.send(self._request)[1])["value"])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self, count: int) -> list[float]:
        return repeated(lambda: self._wire.send(self._request), count)

    def crowd(self, clients: int, seconds: float) -> Crowd:
        return crowd(self._port, [self._request] * clients, seconds)

    def echo(self, body: bytes) -> bytes:
        """There and back: `{"args": [[...]]}` as floats."""
        status, reply = self._wire.send(self._wire.request("POST", "/echo", body))
        if status != 200:
            raise RuntimeError(reply[:300])
        return reply


def fastapi_async() -> FastApi:
    return FastApi(measures.FASTAPI_ASYNC, "/sum-async")
