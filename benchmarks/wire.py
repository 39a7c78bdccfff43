"""A client that costs next to nothing, so that the servers are what is measured."""

import json
import socket
from typing import Any


class Wire:
    """One keep-alive HTTP/1.1 connection on a blocking socket. `head`: of the last reply, in lower case."""

    def __init__(self, port: int, token: str = "") -> None:
        self._port = port
        self._token = token
        self.head = b""
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def request(
        self, method: str, path: str, body: bytes = b"", *, content_type: str = "application/json", accept: str = ""
    ) -> bytes:
        """A request's bytes, to be sent as often as wanted."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._token}\r\n"
            + (f"Accept: {accept}\r\n" if accept else "")
            + f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the reply. Connects anew where the server has closed an idle connection."""
        try:
            self._socket.sendall(request)
            data = self._receive(65536)
        except ConnectionError:
            self._socket.close()
            self._socket = self._connect()
            self._socket.sendall(request)
            data = self._receive(65536)
        while b"\r\n\r\n" not in data:
            data += self._receive(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        self.head = head.lower()
        at = self.head.index(b"content-length:") + 15
        length = int(self.head[at:].split(b"\r\n", 1)[0])
        parts = [body]
        received = len(body)
        while received < length:
            part = self._receive(1 << 20)
            parts.append(part)
            received += len(part)
        return int(head[9:12]), b"".join(parts)

    def _receive(self, most: int) -> bytes:
        data = self._socket.recv(most)
        if not data:
            msg = "the server closed the connection"
            raise ConnectionError(msg)
        return data

    def json(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        status, reply = self.send(self.request(method, path, b"" if body is None else json.dumps(body).encode()))
        return status, json.loads(reply)

    def header(self, name: str) -> str:
        """Of the last reply; empty if it has none such."""
        _, found, rest = self.head.partition(b"\r\n" + name.lower().encode() + b":")
        return rest.partition(b"\r\n")[0].strip().decode() if found else ""

    def close(self) -> None:
        self._socket.close()
