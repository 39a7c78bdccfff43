"""Heads of proxy requests: read strictly, since whoever sends them is hostile, and written anew. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_HEAD_BYTES = 16 * 1024

_REQUEST_LINE = re.compile(r"(CONNECT|DELETE|GET|HEAD|OPTIONS|PATCH|POST|PUT) ([\x21-\x7e]+) HTTP/1\.[01]", re.ASCII)
_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([\x20-\x7e\t]*?)[ \t]*", re.ASCII)
_AUTHORITY = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,15}", re.ASCII)
_HOP_BY_HOP = frozenset(
    ("connection", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade")
)
_REASONS = {
    400: "Bad Request",
    403: "Forbidden",
    411: "Length Required",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class Rejected(Exception):
    """The request is answered with `status` and the connection closed. `reason` is fit for the sandbox to read."""

    def __init__(self, status: int, reason: str | None = None) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = _REASONS[status] if reason is None else reason

    def answer(self) -> bytes:
        # In the status line as well: it is all that clients tell of a tunnel that was refused.
        text = f"{self.reason}\n"
        head = f"HTTP/1.1 {self.status} {self.reason}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}"
        return f"{head}\r\nConnection: close\r\n\r\n{text}".encode("ascii")


@dataclass(frozen=True, slots=True)
class Request:
    """One request: a tunnel to `host` and `port`, or something to fetch there."""

    method: str
    host: str  # lower case, an IPv6 address without brackets
    port: int
    path: str  # with the query; empty for a tunnel
    headers: Sequence[tuple[str, str]]
    body_bytes: int

    @property
    def is_tunnel(self) -> bool:
        return self.method == "CONNECT"

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def head(self, *, absolute: bool = False, further: Sequence[str] = ()) -> bytes:
        """What to send on for a fetch; `absolute` where another proxy reads it, put together anew, so that it reads what was
        read here. One request a connection: the next would reach a server, or a proxy, that nobody has checked it for."""
        host = self.authority.removesuffix(":80")
        kept = [f"{name}: {value}" for name, value in self.headers if name.lower() not in _HOP_BY_HOP]
        line = f"{self.method} {f'http://{host}{self.path}' if absolute else self.path} HTTP/1.1"
        lines = [line, f"Host: {host}", *kept, "Connection: close", *further]
        return "\r\n".join([*lines, "", ""]).encode("ascii")


def parsed(head: bytes) -> Request:
    """A head without the empty line at its end. Raises `Rejected`."""
    try:
        first, *rest = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError as exc:
        raise Rejected(400) from exc
    line = _REQUEST_LINE.fullmatch(first)
    found = [_HEADER.fullmatch(each) for each in rest]
    headers = [(header[1], header[2]) for header in found if header is not None]
    if line is None or len(headers) != len(found):
        raise Rejected(400)
    method, target = line[1], line[2]
    host, port, path = _tunnelled(target) if method == "CONNECT" else _fetched(target)
    return Request(method, host, port, path, headers, _body_bytes(headers))


def _tunnelled(target: str) -> tuple[str, int, str]:
    return (*_authority(target), "")


def _fetched(target: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(target)
    except ValueError as exc:  # a bracket without its other half
        raise Rejected(400) from exc
    if parts.scheme != "http" or "@" in parts.netloc or parts.fragment:
        raise Rejected(400)
    netloc = parts.netloc if re.search(r":[0-9]+\Z", parts.netloc) else f"{parts.netloc}:80"
    return (*_authority(netloc), (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))


def _authority(text: str) -> tuple[str, int]:
    found = _AUTHORITY.fullmatch(text)
    if found is None or int(found[2]) > 65_535:
        raise Rejected(400)
    return found[1].strip("[]").lower(), int(found[2])


def _body_bytes(headers: Sequence[tuple[str, str]]) -> int:
    """How much of what follows belongs to the request. A body of unknown length is not passed on."""
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    if any(name.lower() == "transfer-encoding" for name, _ in headers):
        raise Rejected(411)
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(value) for value in lengths):
        raise Rejected(400)
    return int(lengths[0]) if lengths else 0
