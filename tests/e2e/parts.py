"""multipart/form-data, written and read by hand, so that what crosses is seen as it is."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Part:
    content: bytes
    file_name: str | None = None

    @staticmethod
    def encode(parts: "Mapping[str, Part]") -> tuple[bytes, str]:
        """The body, and its content type."""
        boundary = secrets.token_hex(16)
        pieces = []
        for name, part in parts.items():
            file_name = "" if part.file_name is None else f'; filename="{part.file_name}"'
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file_name}\r\n\r\n'
            pieces += [head.encode(), part.content, b"\r\n"]
        return b"".join([*pieces, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def parts_of(reply: httpx.Response) -> dict[str, Part]:
    """The parts of a typed reply, each as long as its Content-Length says."""
    boundary = reply.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    assert reply.content.startswith(b"--" + boundary + b"\r\n")
    assert reply.content.endswith(b"\r\n--" + boundary + b"--\r\n")
    found = {}
    for piece in (b"\r\n" + reply.content).split(b"\r\n--" + boundary)[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]+)"', head)
        length = re.search(rb"(?i)content-length: ([0-9]+)", head)
        assert name is not None
        assert length is not None
        assert int(length[1]) == len(content)
        found[name[1].decode()] = Part(content)
    return found
