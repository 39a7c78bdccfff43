"""What goes to the server and what comes back, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from typing import Any

from kodou.multipart import Form

JSON = "application/json"
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True)
class Request:
    """`path` is relative to the server's address; `body` is JSON, a form with files, or empty.

    `repeatable`: may be sent again whatever became of it, as it leaves nothing behind that matters.
    """

    method: str
    path: str
    body: bytes | Form = b""
    accept: str = JSON
    more: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Accept": self.accept, **self.more}
        if isinstance(self.body, Form):
            # Given, or the body would go in chunks of unknown number.
            headers.update({"Content-Type": self.body.content_type, "Content-Length": str(self.body.size)})
        elif self.body:
            headers["Content-Type"] = JSON
        return headers


@dataclass(frozen=True)
class Response:
    """What came back. `headers` has lower-case names. `body` is that of a form's part "reply"; `files`: its other parts."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    files: Mapping[str, BytesIO] | None = None


@dataclass(frozen=True)
class EnvironmentInfo:
    """A language version with exact packages. `reused`: it had been built before."""

    id: str
    language: str
    version: str
    packages: Mapping[str, str]
    reused: bool


@dataclass(frozen=True)
class Setup:
    """The answer to a setup: a session id, and what it stands on. `expires` is None where the server sets no end."""

    session_id: str
    environment: EnvironmentInfo
    expires: datetime | None


@dataclass(frozen=True)
class Progress:
    """One step of a build; numbers that are unknown are None. `bytes` of `total` are those of `package`."""

    phase: str
    package: str | None = None
    bytes: int | None = None
    total: int | None = None
    line: str | None = None


@dataclass(frozen=True)
class Output:
    """A piece of what a call prints. `stream` is "stdout" or "stderr". Over several sandboxes, `pipe` and `stage` say where."""

    text: str
    stream: str = "stdout"
    pipe: int | None = None
    stage: int | None = None


@dataclass(frozen=True)
class Item:
    """One item of the iterator that a call gives, as it came. `index` counts from 0; `pipe`, `stage`: as of an `Output`."""

    index: int
    value: Any
    pipe: int | None = None
    stage: int | None = None


@dataclass(frozen=True)
class Reply:
    """A call's value and what else the server said of it.

    `ms`: milliseconds inside the runner. `items`: how many went before as `Item`, in place of the value. `restarted`: the
    call got, or left behind, a fresh interpreter. `cold`: what had to be made for it first, "none", "session" or
    "environment". `timings`: milliseconds of each phase in the server.
    """

    value: Any
    type: str | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    ms: float | None = None
    items: int | None = None
    restarted: bool = False
    cold: str | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
