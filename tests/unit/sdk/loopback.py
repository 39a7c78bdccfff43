"""What stands behind the SDK, without sockets or processes: the runner that runs in sandboxes, in this process.

Takes the SDK's HTTP requests, answers as the server does. What it was asked stands in `requests`.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from runner import envelope, frames
from runner.calls import Calls, Limits
from runner.place import Place

from orchestrator.api import problems
from orchestrator.api.accepting import Wanted
from orchestrator.api.call_replies import respond
from orchestrator.errors import KodouError
from orchestrator.sandboxes.content import Whole
from orchestrator.sandboxes.replies import NotSerializable, Raised, RefusedCall, Reply, Typed, Value
from orchestrator.sessions.manager import CallOutcome

READY = {
    "sessionid": "the-session",
    "error": False,
    "environment": {
        "id": "e1",
        "language": "python",
        "version": "3.12.4",
        "packages": {"numpy": "2.4"},
        "reused": True,
    },
    "expires": "2030-01-01T00:00:00Z",
}
LIMITS = Limits(
    max_reply_bytes=10**7, max_content_bytes=10**8, max_items=10_000, max_references=20, max_reference_bytes=10**7
)
KINDS = {"call": frames.CALL, "kompose": frames.COMPOSE, "describe": frames.DESCRIBE}


class Silent:
    """Captures nothing: what a call prints, pytest shows."""

    def take(self) -> dict[str, object]:
        return {}


class Asked:
    """A request as the server sees it."""

    def __init__(self, request: httpx.Request, body: bytes) -> None:
        self.method, self.path, self.headers = request.method, request.url.path, request.headers
        boundary = re.fullmatch("multipart/form-data; boundary=(.+)", request.headers.get("content-type", ""))
        self.files: dict[str, bytes] = {}
        self.json = body
        if boundary is not None:
            assert int(request.headers["content-length"]) == len(body)
            parts = _parts(body, boundary.group(1).encode())
            self.json = parts.pop("call")
            self.files = parts

    @property
    def members(self) -> Any:
        return json.loads(self.json)


class Loopback(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """One session per setup; each keeps its own objects."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.answers: list[httpx.Response] = []  # given in turn in place of the runner's, while there are some
        self._sessions: dict[str, Calls] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._answered(Asked(request, request.read()))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        asked = Asked(request, await request.aread())
        return await asyncio.to_thread(self._answered, asked)

    @property
    def calls(self) -> list[Any]:
        """Bodies of the requests that run something."""
        return [asked.members for asked in self.requests if asked.path.endswith(("/call", "/kompose"))]

    def restart(self) -> None:
        """Every session gets a fresh interpreter."""
        self._sessions = {id: Calls(Silent(), LIMITS, Place(), first=False) for id in self._sessions}  # type: ignore[arg-type]

    def _answered(self, asked: Asked) -> httpx.Response:
        self.requests.append(asked)
        if self.answers:
            return self.answers.pop(0)
        if asked.path.endswith("/setup"):
            id = f"session-{len(self._sessions)}"
            self._sessions[id] = Calls(Silent(), LIMITS, Place(), first=True)  # type: ignore[arg-type]
            return httpx.Response(200, json={**READY, "sessionid": id})
        if asked.path == "/session":
            return httpx.Response(200, json={"error": False})
        return self._run(asked)

    def _run(self, asked: Asked) -> httpx.Response:
        members = asked.members
        calls = self._sessions[members.get("sessionid") or members["session"]]
        forms = ["typed"] if asked.headers["accept"].startswith("multipart/form-data") else ["json"]
        head = json.dumps({"forms": forms, "files": [(name, len(data)) for name, data in asked.files.items()]}).encode()
        extra = frames.ENVELOPE.pack(len(head)) + head + b"".join(asked.files.values())
        kind = KINDS[asked.path.rpartition("/")[2]]
        answer = calls.answer(frames.Frame(kind, 0, 1, asked.json, extra))
        return asyncio.run(_response(_reply(*answer)))


def _reply(kind: int, body: bytes, extra: Sequence[bytes | memoryview]) -> Reply:
    if kind == frames.REFUSED:
        members = json.loads(body)
        return RefusedCall(members["code"], members["detail"], members.get("field"), members.get("stage"))
    if kind == frames.VALUE and extra:
        files = _files(b"".join(extra))
        return Typed(body, tuple((name, len(data)) for name, data in files.items()), Whole(b"".join(files.values())))
    return {frames.VALUE: Value, frames.RAISED: Raised, frames.UNSERIALISABLE: NotSerializable}[kind](body)


def _files(extra: bytes) -> Mapping[str, memoryview]:
    length = frames.ENVELOPE.unpack_from(extra)[0]
    head = {"forms": [], **json.loads(extra[4 : 4 + length])}
    text = json.dumps(head).encode()
    return envelope.read(frames.ENVELOPE.pack(len(text)) + text + extra[4 + length :]).files


async def _response(reply: Reply) -> httpx.Response:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    outcome = CallOutcome(reply, restarted=False, queued_s=0, started_s=0, ran_s=0.001)
    try:
        await respond(send, outcome, Wanted(), request_id="request-1", auth_s=0)
    except KodouError as exc:
        status, headers, body = problems.render(exc, "request-1")
        return httpx.Response(status, headers=headers, content=body)
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=b"".join(m["body"] for m in sent[1:]))


def _parts(body: bytes, boundary: bytes) -> dict[str, bytes]:
    *parts, end = (b"\r\n" + body).split(b"\r\n--" + boundary)[1:]
    assert end == b"--\r\n"
    found = {}
    for part in parts:
        head, _, data = part.partition(b"\r\n\r\n")
        found[re.search(rb'; name="([^"]+)"', head)[1].decode()] = data  # type: ignore[index]
    return found
