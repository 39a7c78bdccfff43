"""Four ways to make a call, each for itself: what goes over the wire differs, the outcome must not."""

import base64
import json
import subprocess
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import kodou
import numpy as np
from kodou.errors import InvalidRequest, RemoteError

from tests.e2e.expressions import Raised, as_json
from tests.e2e.parts import Part, parts_of
from tests.e2e.test_examples import needed
from tests.servers import Session

CALL = "/environment/python/call"


class Refused(NamedTuple):
    code: str
    field: str | None


class Call(NamedTuple):
    """`path`: names, and (name, arguments) for what is called on the way. `outcome`: a value, Raised or Refused."""

    path: list[Any]
    args: list[Any]
    outcome: Any


def body_of(session: Session, call: Call) -> dict[str, Any]:
    return {"sessionid": session.id, "namepath": namepath(call.path), "args": [tagged(each) for each in call.args]}


def namepath(path: list[Any]) -> list[Any]:
    return [{"name": each[0], "args": each[1]} if isinstance(each, tuple) else each for each in path]


def tagged(value: Any) -> Any:
    """As JSON: bytes, and an object that is no tag."""
    return {"$object": value} if isinstance(value, dict) else as_json(value)


def read(status: int, reply: dict[str, Any]) -> Any:
    """The outcome that a JSON reply tells."""
    if status != 200:
        return Refused(reply["code"], reply["field"])
    if reply["error"]:
        return Raised(reply["exception"]["type"], reply["exception"]["message"])
    return reply["value"]


def by_curl(session: Session, call: Call) -> Any:
    command = [needed("curl"), "-sS", "-w", "\n%{http_code}", f"{session.client.base_url}{CALL}"]
    header = f"Authorization: {session.client.headers['Authorization']}"
    data = json.dumps(body_of(session, call))
    done = subprocess.run([*command, "-H", header, "-d", data], check=True, capture_output=True, text=True)
    reply, _, status = done.stdout.rpartition("\n")
    outcome = read(int(status), json.loads(reply))
    if isinstance(outcome, dict) and outcome.keys() == {"$bytes"}:
        return base64.b64decode(outcome["$bytes"])
    return outcome


def by_form(session: Session, call: Call) -> Any:
    """Bytes go and come as files."""
    files = {f"f{place}": Part(each) for place, each in enumerate(call.args) if isinstance(each, bytes)}
    body = body_of(session, call)
    body["args"] = [{"$file": f"f{place}"} if f"f{place}" in files else each for place, each in enumerate(body["args"])]
    content, content_type = Part.encode({"call": Part(json.dumps(body).encode()), **files})
    headers = {"Content-Type": content_type, "Accept": "multipart/form-data"}
    reply = session.client.post(CALL, content=content, headers=headers)
    if not reply.headers["content-type"].startswith("multipart/form-data"):
        return read(reply.status_code, reply.json())
    parts = parts_of(reply)
    return untagged(read(200, json.loads(parts["reply"].content)), parts)


def untagged(value: Any, parts: dict[str, Part]) -> Any:
    match value:
        case {"$file": name}:
            return parts[name].content
        case {"$array": name, "dtype": dtype, "shape": shape}:
            return np.frombuffer(parts[name].content, dtype).reshape(shape).tolist()
        case {"$object": members}:
            return members
    return value


def by_sdk(session: Session, call: Call) -> Any:
    path = [kodou.step(each[0], *each[1]) if isinstance(each, tuple) else each for each in call.path]
    token = session.client.headers["Authorization"].removeprefix("Bearer ")
    with kodou.Client(str(session.client.base_url), token) as client:
        try:
            value = client.session(session.id).call(path, *call.args)
        except RemoteError as exc:
            return Raised(exc.type, exc.message)
        except InvalidRequest as exc:
            return Refused(exc.code, exc.field)
    return value.tolist() if isinstance(value, np.ndarray) else value


def by_protobuf(stock: ModuleType) -> Callable[[Session, Call], Any]:
    def called(session: Session, call: Call) -> Any:
        request = stock.CallRequest(sessionid=session.id, args=[message(stock, each) for each in call.args])
        for each in call.path:
            name, args = each if isinstance(each, tuple) else (each, None)
            element = request.namepath.add(name=name)
            if args is not None:
                element.arguments.args.extend(message(stock, value) for value in args)
        media_type = "application/x-protobuf"
        headers = {"Content-Type": media_type, "Accept": media_type}
        reply = session.client.post(CALL, content=request.SerializeToString(), headers=headers)
        if reply.headers["content-type"] != media_type:
            return read(reply.status_code, reply.json())
        told = stock.CallReply.FromString(reply.content)
        if told.WhichOneof("outcome") == "error":
            return Raised(told.error.exception.type, told.error.exception.message)
        return python(told.value)

    return called


def message(stock: ModuleType, value: Any) -> Any:
    match value:
        case None:
            return stock.Value(null_value=stock.Null())
        case bool():
            return stock.Value(bool_value=value)
        case int():
            return stock.Value(int64_value=value)
        case float():
            return stock.Value(double_value=value)
        case str():
            return stock.Value(string_value=value)
        case bytes():
            return stock.Value(bytes_value=value)
        case list():
            return stock.Value(list_value=stock.List(values=[message(stock, each) for each in value]))
    entries = [stock.Entry(key=key, value=message(stock, each)) for key, each in value.items()]
    return stock.Value(map_value=stock.Map(entries=entries))


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
            return np.frombuffer(held.data, held.dtype).reshape(held.shape).tolist()
    return held
