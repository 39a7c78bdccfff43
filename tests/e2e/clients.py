"""Ways to make a call, each for itself: what goes over the wire differs, the answer must not."""

import base64
import json
import subprocess
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import anyio
import kodou
import kodou.aio
import numpy as np
import polars
from kodou.errors import CallFailed, RemoteError

from tests.e2e.expressions import escaped
from tests.e2e.outcomes import (
    NoValue,
    Outcome,
    Quiet,
    Raised,
    Refused,
    Value,
    as_json,
    exactly,
    masked,
    named,
    outcome,
    raised,
    told,
)
from tests.e2e.parts import Part, parts_of
from tests.e2e.test_examples import needed
from tests.servers import Session

CALL = "/environment/python/call"
TYPED = "multipart/form-data"
PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True)
class Call:
    """`path`: names, and (name, arguments) for what is called on the way. Values are Python's: bytes too."""

    path: list[Any]
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    timeout_ms: int | None = None
    session: str | None = None  # in place of the one that is there
    token: str | None = None

    def evaluate(self) -> Any:
        """What it comes to in this process. Raises Lost."""
        value: Any = None
        for number, each in enumerate(self.path):
            name, args = each if isinstance(each, tuple) else (each, None)
            try:
                value = getattr(value, name) if number else named((name,))
            except AttributeError:
                raise Lost(Refused("attribute_not_found", f"namepath[{number}]")) from None
            if args is not None:
                if not callable(value):
                    raise Lost(Refused("not_callable", f"namepath[{number}]"))
                value = value(*deepcopy(args))
        if callable(value):
            return value(*deepcopy(self.args), **deepcopy(self.kwargs))
        if self.args or self.kwargs:
            raise Lost(Refused("not_callable", "args" if self.args else "kwargs"))
        return value


class Lost(Exception):
    """The namepath leads nowhere, or to what takes no arguments."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused)
        self.refused = refused


class Answer(NamedTuple):
    outcome: Outcome
    printed: str = ""


def evaluated(call: Call) -> Answer:
    """What this process answers."""
    with Quiet() as quiet:
        try:
            found = outcome(call.evaluate())
        except Lost as lost:
            return Answer(lost.refused)
        except (Exception, SystemExit) as exc:
            found = raised(exc)
    return Answer(found, quiet.text)


Client = Callable[[Session, Call], Answer]


def token_of(session: Session, call: Call) -> str:
    return call.token or session.client.headers["Authorization"].removeprefix("Bearer ")


def body_of(session: Session, call: Call, spelt: Callable[[Any], Any]) -> dict[str, Any]:
    """The JSON of a call; `spelt` says how values are written."""
    body: dict[str, Any] = {"sessionid": call.session or session.id}
    body["namepath"] = [
        {"name": each[0], "args": [spelt(value) for value in each[1]]} if isinstance(each, tuple) else each
        for each in call.path
    ]
    body["args"] = [spelt(value) for value in call.args]
    if call.kwargs:
        body["kwargs"] = {name: spelt(value) for name, value in call.kwargs.items()}
    if call.timeout_ms is not None:
        body["timeout"] = call.timeout_ms
    return body


def tagged(value: Any) -> Any:
    """As JSON: bytes, and objects that are no tags."""
    match value:
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case list():
            return [tagged(item) for item in value]
        case dict():
            return {"$object": {name: tagged(item) for name, item in value.items()}}
    return escaped(value)


def native(value: Any) -> Any:
    """What a client of Python made of a value, in its JSON form."""
    match value:
        case kodou.Image():
            return {"$image": base64.b64encode(value.data).decode(), "type": value.type}
        case polars.DataFrame():
            return {"columns": value.columns, "data": [native(row) for row in value.rows()]}
        case list() | tuple():
            return [native(item) for item in value]
        case dict():
            return {name: native(item) for name, item in value.items()}
    return as_json(value)


def answered(value: Any, members: Mapping[str, Any]) -> Answer:
    return Answer(Value(exactly(native(value)), members.get("type")), members.get("stdout", ""))


def read(status: int, reply: Mapping[str, Any]) -> Answer:
    """The answer that a reply in JSON tells."""
    return Answer(told(status, reply), reply.get("stdout", "") if status == 200 else "")


# --- JSON ---


def by_curl(session: Session, call: Call) -> Answer:
    command = [needed("curl"), "-sS", "-w", "\n%{http_code}", f"{session.client.base_url}{CALL}", "-d", "@-"]
    header = f"Authorization: Bearer {token_of(session, call)}"
    data = json.dumps(body_of(session, call, tagged))
    done = subprocess.run([*command, "-H", header], input=data, check=True, capture_output=True, text=True)
    reply, _, status = done.stdout.rpartition("\n")
    return read(int(status), json.loads(reply))


def by_http(session: Session, call: Call) -> Answer:
    """As curl sends it, without a process for it."""
    body = json.dumps(body_of(session, call, tagged), ensure_ascii=False)
    headers = {"Authorization": f"Bearer {token_of(session, call)}"}
    reply = session.client.post(CALL, content=body.encode(), headers=headers)
    return read(reply.status_code, reply.json())


# --- a form with files ---


def by_form(session: Session, call: Call) -> Answer:
    """Bytes go and come as files."""
    files: dict[str, Part] = {}

    def spelt(value: Any) -> Any:
        if isinstance(value, bytes):
            files[f"p{len(files)}"] = Part(value)
            return {"$file": f"p{len(files) - 1}"}
        if isinstance(value, list):
            return [spelt(item) for item in value]
        if isinstance(value, dict):
            return {"$object": {name: spelt(item) for name, item in value.items()}}
        return escaped(value)

    body = json.dumps(body_of(session, call, spelt)).encode()
    content, content_type = Part.encode({"call": Part(body), **files})
    headers = {"Authorization": f"Bearer {token_of(session, call)}", "Content-Type": content_type, "Accept": TYPED}
    reply = session.client.post(CALL, content=content, headers=headers)
    if not reply.headers["content-type"].startswith(TYPED):
        return read(reply.status_code, reply.json())
    parts = parts_of(reply)
    members = json.loads(parts["reply"].content)
    return answered(untagged(members["value"], parts), members)


def untagged(value: Any, parts: Mapping[str, Part]) -> Any:
    match value:
        case {"$file": name}:
            return parts[name].content
        case {"$float": text}:
            return float(text)
        case {"$image": name, "type": media_type}:
            return kodou.Image(parts[name].content, media_type)
        case {"$array": name, "dtype": dtype, "shape": shape}:
            return np.frombuffer(parts[name].content, dtype).reshape(shape)
        case {"$frame": "polars", "columns": columns, "data": data}:
            return frame(columns, [untagged(column, parts) for column in data])
        case {"$object": members}:
            return {name: untagged(item, parts) for name, item in members.items()}
        case dict():
            return {name: untagged(item, parts) for name, item in value.items()}
        case list():
            return [untagged(item, parts) for item in value]
    return value


def frame(columns: list[Any], data: list[Any]) -> dict[str, Any]:
    return {"columns": columns, "data": [list(row) for row in zip(*(as_json(column) for column in data), strict=True)]}


# --- the SDK ---


def by_sdk(session: Session, call: Call) -> Answer:
    with kodou.Client(str(session.client.base_url), token_of(session, call), retries=0) as client:
        try:
            return _replied(client.session(call.session or session.id).reply(*_of_sdk(call), **_by_name(call)))
        except kodou.KodouError as exc:
            return _failed(exc)


def by_async_sdk(session: Session, call: Call) -> Answer:
    async def called() -> Answer:
        url = str(session.client.base_url)
        async with kodou.aio.AsyncClient(url, token_of(session, call), retries=0) as client:
            try:
                there = client.session(call.session or session.id)
                return _replied(await there.reply(*_of_sdk(call), **_by_name(call)))
            except kodou.KodouError as exc:
                return _failed(exc)

    return anyio.run(called)


def _of_sdk(call: Call) -> list[Any]:
    return [[kodou.step(each[0], *each[1]) if isinstance(each, tuple) else each for each in call.path], *call.args]


def _by_name(call: Call) -> dict[str, Any]:
    return {**call.kwargs, "timeout": None if call.timeout_ms is None else call.timeout_ms / 1000}


def _replied(reply: kodou.Reply) -> Answer:
    return answered(reply.value, {"type": reply.type, "stdout": reply.stdout})


def _failed(exc: kodou.KodouError) -> Answer:
    match exc:
        case RemoteError():
            return Answer(Raised(exc.type, masked(exc.message)), exc.stdout)
        case CallFailed():
            return Answer(NoValue(exc.code, exc.members.get("type")), exc.stdout)
    return Answer(Refused(exc.code, exc.members.get("field")))


# --- Protocol Buffers ---


def by_protobuf(stock: ModuleType) -> Client:
    """`stock`: what `protoc` makes of the file that is shipped; nothing else of ours."""

    def called(session: Session, call: Call) -> Answer:
        request = stock.CallRequest(sessionid=call.session or session.id, timeout_ms=call.timeout_ms)
        request.args.extend(message(stock, each) for each in call.args)
        request.kwargs.extend(entries(stock, call.kwargs))
        for each in call.path:
            name, args = each if isinstance(each, tuple) else (each, None)
            element = request.namepath.add(name=name)
            if args is not None:
                element.arguments.SetInParent()
                element.arguments.args.extend(message(stock, value) for value in args)
        headers = {"Authorization": f"Bearer {token_of(session, call)}", "Content-Type": PROTOBUF, "Accept": PROTOBUF}
        reply = session.client.post(CALL, content=request.SerializeToString(), headers=headers)
        if reply.headers["content-type"] != PROTOBUF:
            return read(reply.status_code, reply.json())
        found = stock.CallReply.FromString(reply.content)
        if found.WhichOneof("outcome") == "value":
            return answered(python(found.value), {"type": found.type or None, "stdout": found.stdout})
        error = found.error
        if error.code == "exception":
            return Answer(Raised(error.exception.type, masked(error.exception.message)), found.stdout)
        return Answer(NoValue(error.code, error.type or None), found.stdout)

    called.__name__ = "by_protobuf"
    return called


def entries(stock: ModuleType, members: Mapping[str, Any]) -> list[Any]:
    return [stock.Entry(key=key, value=message(stock, each)) for key, each in members.items()]


def message(stock: ModuleType, value: Any) -> Any:
    match value:
        case None:
            return stock.Value(null_value=stock.Null())
        case bool():
            return stock.Value(bool_value=value)
        case int() if -(2**63) <= value < 2**63:
            return stock.Value(int64_value=value)
        case int() if 0 <= value < 2**64:
            return stock.Value(uint64_value=value)
        case int():
            return stock.Value(integer_value=str(value))
        case float():
            return stock.Value(double_value=value)
        case str():
            return stock.Value(string_value=value)
        case bytes():
            return stock.Value(bytes_value=value)
        case list():
            return stock.Value(list_value=stock.List(values=[message(stock, each) for each in value]))
    return stock.Value(map_value=stock.Map(entries=entries(stock, value)))


def python(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    held = getattr(value, kind)
    match kind:
        case "null_value":
            return None
        case "integer_value":
            return int(held)
        case "list_value":
            return [python(each) for each in held.values]
        case "map_value":
            return {entry.key: python(entry.value) for entry in held.entries}
        case "ndarray_value":
            return np.frombuffer(held.data, held.dtype).reshape(held.shape)
        case "image_value":
            return kodou.Image(held.data, held.media_type)
        case "frame_value":
            return frame([python(each) for each in held.columns], [python(each) for each in held.data])
    return held
