"""The protocol without any I/O: builds requests, reads replies into values or raises. Both clients share it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Union
from urllib.parse import quote

from kodou.errors import BadReply, KodouError, error_class

# Python 3.9 evaluates these two, and has no `|` between types.
Element = Union[str, Mapping[str, Any]]  # noqa: UP007
Namepath = Union[str, Sequence[Element]]  # noqa: UP007

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
MAX_SHOWN = 200  # characters of a foreign body that an error quotes


@dataclass(frozen=True)
class Request:
    """`path` is relative to the server's address; `body` is JSON or empty."""

    method: str
    path: str
    body: bytes = b""
    accept: str = JSON

    @property
    def headers(self) -> dict[str, str]:
        return {"Accept": self.accept, **({"Content-Type": JSON} if self.body else {})}


@dataclass(frozen=True)
class Response:
    """What came back. `headers` has lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Environment:
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
    environment: Environment
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
class Reply:
    """A call's value and what else the server said of it. `ms`: milliseconds inside the runner."""

    value: Any
    type: str | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    ms: float | None = None


def step(name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """A namepath element that is called on the way: `["numpy", step("array", [2, 4, 6]), "sum"]`."""
    return {"name": name, "args": list(args), **({"kwargs": kwargs} if kwargs else {})}


def setup_request(
    dependencies: Iterable[str],
    version: str | None = None,
    *,
    language: str = "python",
    options: Mapping[str, Any] | None = None,
    stream: bool = False,
) -> Request:
    """Args:    options: the protocol's optional members (`resources`, `network`, `env`, `ttl`, `refresh`).
    Raises:  TypeError: `dependencies` is one string, not several.
    """
    if isinstance(dependencies, str):
        msg = f"dependencies is a list of strings: [{dependencies!r}]"
        raise TypeError(msg)
    members: dict[str, Any] = {"dependencies": list(dependencies)}
    if version is not None:
        members["version"] = version
    members.update(options or {})
    accept = EVENT_STREAM if stream else JSON
    return Request("POST", f"/environment/{quote(language, safe='')}/setup", _encode(members), accept)


def call_request(
    session_id: str,
    namepath: Namepath,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    timeout_s: float | None = None,
    language: str = "python",
) -> Request:
    """Args:    timeout_s: rounded up to whole milliseconds; None leaves it to the server.
    Raises:  TypeError: an argument has no JSON form. ValueError: the timeout is not positive.
    """
    members: dict[str, Any] = {"sessionid": session_id}
    if timeout_s is not None:
        if not (timeout_s > 0 and math.isfinite(timeout_s)):
            msg = f"timeout is a positive number of seconds, not {timeout_s!r}"
            raise ValueError(msg)
        members["timeout"] = math.ceil(timeout_s * 1000)
    members["namepath"] = namepath if isinstance(namepath, str) else list(namepath)
    members["args"] = list(args)
    if kwargs:
        members["kwargs"] = dict(kwargs)
    return Request("POST", f"/environment/{quote(language, safe='')}/call", _encode(members))


def close_request(session_id: str) -> Request:
    return Request("DELETE", "/session", _encode({"sessionid": session_id}))


def read_setup(response: Response) -> Setup:
    """Raises a `KodouError` of the reply's code; `BadReply` if it is no reply of this protocol."""
    return read_ready(_accepted(response))


def read_call(response: Response) -> Reply:
    """Raises `CallFailed` or what it stands for if there is no value; another `KodouError` if the call was refused."""
    members = _accepted(response)
    if "value" not in members:
        msg = "the server's reply to a call has no value"
        raise BadReply(msg, status=response.status)
    return Reply(
        value=members["value"],
        type=members.get("type"),
        stdout=members.get("stdout", ""),
        stderr=members.get("stderr", ""),
        truncated=members.get("truncated", False),
        ms=members.get("ms"),
    )


def read_closed(response: Response) -> None:
    """Raises a `KodouError` if the session could not be closed."""
    if response.status >= 400 or response.body:
        _accepted(response)


def _encode(members: Mapping[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def _accepted(response: Response) -> dict[str, Any]:
    members = read_object(response.body, response.status)
    if response.status >= 400 or members.get("error") is True:
        if "retry-after" in response.headers and "after_s" not in members:
            members["after_s"] = _seconds(response.headers["retry-after"])
        raise failure(members, response.status, response.headers.get("x-request-id"))
    return members


def read_object(text: bytes | str, status: int) -> dict[str, Any]:
    """A body or an event's data as a JSON object. Raises `BadReply`, which quotes the beginning of what it is instead."""
    try:
        members = json.loads(text)
    except (ValueError, RecursionError) as exc:
        shown = text[:MAX_SHOWN] if isinstance(text, str) else text[:MAX_SHOWN].decode("utf-8", "replace")
        msg = f"the server's reply (status {status}) is not JSON: {shown!r}"
        raise BadReply(msg, status=status) from exc
    if not isinstance(members, dict):
        msg = f"the server's reply (status {status}) is not a JSON object"
        raise BadReply(msg, status=status)
    return members


def failure(members: Mapping[str, Any], status: int, request_id: str | None) -> KodouError:
    """What a reply with an error stands for, told by `detail`, by what the function raised, or else by its code."""
    code = members.get("code")
    exception = members.get("exception")
    if isinstance(exception, dict):
        code = code or "exception"
        detail = f"{exception.get('type')}: {exception.get('message')}"
    else:
        detail = str(
            members.get("detail") or members.get("title") or f"the server answered {status} {code or ''}".strip()
        )
    named = members.get("request_id")
    return error_class(str(code), status)(
        detail, members=members, status=status, request_id=named if isinstance(named, str) else request_id
    )


def read_ready(members: Mapping[str, Any]) -> Setup:
    """The members of a setup's reply, or of its stream's `ready` event. Raises `BadReply`."""
    try:
        environment = members["environment"]
        expires = members.get("expires")
        return Setup(
            session_id=members["sessionid"],
            environment=Environment(
                id=environment["id"],
                language=environment["language"],
                version=environment["version"],
                packages=dict(environment["packages"]),
                reused=environment["reused"],
            ),
            # Python before 3.11 does not read the Z.
            expires=None if expires is None else datetime.fromisoformat(expires.replace("Z", "+00:00")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        msg = f"the server's reply to a setup lacks or misstates a member: {exc}"
        raise BadReply(msg) from exc


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
