"""The protocol without any I/O: builds requests, reads replies or raises. Both clients share it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Union
from urllib.parse import quote

from kodou.errors import BadReply, KodouError, error_class
from kodou.messages import EVENT_STREAM, JSON, EnvironmentInfo, Reply, Request, Response, Setup
from kodou.tags import dumps

# Python 3.9 evaluates these two, and has no `|` between types.
Element = Union[str, Mapping[str, Any]]
Namepath = Union[str, Sequence[Element]]

_TIMING = re.compile(r"([A-Za-z]+);dur=([0-9]{1,12}(?:\.[0-9]{1,12})?)(?=[,\s]|$)")
MAX_SHOWN = 200  # characters of a foreign body that an error quotes


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
    """Args:    options: the protocol's optional members (`resources`, `network`, `env`, `ttl`, `refresh`, `lock`).
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
    return Request("POST", f"/environment/{quote(language, safe='')}/setup", dumps(members), accept, repeatable=True)


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
    members: dict[str, Any] = {"sessionid": session_id, **timeout_member(timeout_s)}
    members["namepath"] = namepath if isinstance(namepath, str) else list(namepath)
    members["args"] = list(args)
    if kwargs:
        members["kwargs"] = dict(kwargs)
    return Request("POST", call_path(language), dumps(members))


def call_path(language: str) -> str:
    return f"/environment/{quote(language, safe='')}/call"


def timeout_member(timeout_s: float | None) -> dict[str, int]:
    """The member `timeout` in whole milliseconds, if there is to be one. Raises ValueError: it is not positive."""
    if timeout_s is None:
        return {}
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        msg = f"timeout is a positive number of seconds, not {timeout_s!r}"
        raise ValueError(msg)
    return {"timeout": math.ceil(timeout_s * 1000)}


def environment_request(environment_id: str, *, language: str = "python") -> Request:
    return Request("GET", f"/environment/{quote(language, safe='')}/{quote(environment_id, safe='')}", repeatable=True)


def read_environment(response: Response) -> dict[str, Any]:
    """All that the server knows of an environment; its `lock` is what a setup takes. Raises a `KodouError`."""
    return _accepted(response)


def close_request(session_id: str) -> Request:
    return Request("DELETE", "/session", dumps({"sessionid": session_id}), repeatable=True)


def read_setup(response: Response) -> Setup:
    """Raises a `KodouError` of the reply's code; `BadReply` if it is no reply of this protocol."""
    return read_ready(_accepted(response))


def read_call(response: Response) -> Reply:
    """The reply with its value as JSON has it.

    Raises `CallFailed` or what it stands for if there is no value; another `KodouError` if the call was refused.
    """
    return read_reply(_accepted(response), response.headers, response.status)


def read_reply(members: Mapping[str, Any], headers: Mapping[str, str], status: int = 200) -> Reply:
    """The members of a call's reply, or of its stream's `result` event. Raises `BadReply`."""
    if "value" not in members:
        msg = "the server's reply to a call has no value"
        raise BadReply(msg, status=status)
    return Reply(
        value=members["value"],
        type=members.get("type"),
        stdout=members.get("stdout", ""),
        stderr=members.get("stderr", ""),
        truncated=members.get("truncated", False),
        ms=members.get("ms"),
        items=members.get("items"),
        restarted=headers.get("kodou-restarted") == "true",
        cold=members.get("cold", headers.get("kodou-cold")),
        timings=_timings(headers.get("server-timing", "")),
    )


def read_closed(response: Response) -> None:
    """Raises a `KodouError` if the session could not be closed."""
    if response.status >= 400 or response.body:
        _accepted(response)


def _accepted(response: Response) -> dict[str, Any]:
    return checked(read_body(response), response)


def checked(members: dict[str, Any], response: Response) -> dict[str, Any]:
    """The members of a response's body, unless they tell of an error, which is raised."""
    error = _error(members, response)
    if error is not None:
        raise error
    return members


def problem(response: Response) -> KodouError | None:
    """The error that a response tells of, if it does."""
    try:
        return _error(read_body(response), response)
    except BadReply as exc:
        return exc


def _error(members: dict[str, Any], response: Response) -> KodouError | None:
    if response.status < 400 and members.get("error") is not True:
        return None
    if "retry-after" in response.headers and "after_s" not in members:
        members["after_s"] = seconds(response.headers["retry-after"])
    return failure(members, response.status, response.headers.get("x-request-id"))


def read_body(response: Response) -> dict[str, Any]:
    """A response's body as a JSON object. Raises `BadReply`, which tells what else it is."""
    content_type = response.headers.get("content-type", "no content type")[:MAX_SHOWN]
    hint = f" ({content_type}); is KODOU_URL, or `url`, a kodou server's address?"
    if 300 <= response.status < 400:
        to = response.headers.get("location", "nowhere")[:MAX_SHOWN]
        msg = f"the server's reply (status {response.status}) leads to {to}{hint}"
        raise BadReply(msg, status=response.status)
    return read_object(response.body, response.status, hint)


def read_object(text: bytes | str, status: int, hint: str = "") -> dict[str, Any]:
    """A body or an event's data as a JSON object. Raises `BadReply`, which quotes the beginning of what it is instead."""
    try:
        members = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as exc:
        shown = text[:MAX_SHOWN] if isinstance(text, str) else text[:MAX_SHOWN].decode("utf-8", "replace")
        msg = f"the server's reply (status {status}) is not JSON: {shown!r}{hint}"
        raise BadReply(msg, status=status) from exc
    except ValueError as exc:  # an integer of more digits than Python reads
        msg = f"the server's reply cannot be read here: {exc}"
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
        detail = f"{exception.get('type')}: {exception.get('message')}{_place(members)}"
    else:
        detail = str(
            members.get("detail") or members.get("title") or f"the server answered {status} {code or ''}".strip()
        )
    named = members.get("request_id")
    return error_class(str(code), status)(
        detail, members=members, status=status, request_id=named if isinstance(named, str) else request_id
    )


def _place(members: Mapping[str, Any]) -> str:
    """Where in a pipeline or a list it was: ` (stage 0, item 2)`."""
    known = [f"{name} {members[name]}" for name in ("pipe", "stage", "item") if type(members.get(name)) is int]
    return f" ({', '.join(known)})" if known else ""


def read_ready(members: Mapping[str, Any]) -> Setup:
    """The members of a setup's reply, or of its stream's `ready` event. Raises `BadReply`."""
    try:
        environment = members["environment"]
        expires = members.get("expires")
        return Setup(
            session_id=members["sessionid"],
            environment=EnvironmentInfo(
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


def seconds(text: str) -> float | None:
    """What a `Retry-After` says, if it is a number."""
    try:
        return float(text)
    except ValueError:
        return None


def _timings(header: str) -> dict[str, float]:
    """Milliseconds by phase, out of a `Server-Timing`."""
    return {name: float(duration) for name, duration in _TIMING.findall(header)}
