"""The same calls by curl, as a form with files, by a stock Protocol Buffers client, the SDK and Postman's runner: one answer."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.e2e.clients import CALL, Call, Refused, body_of, by_curl, by_form, by_protobuf, by_sdk
from tests.e2e.expressions import Raised, as_json
from tests.e2e.test_examples import newman, run
from tests.servers import Server, Session

__all__ = ["newman"]  # a fixture

pytestmark = pytest.mark.index

PROTO = Path(__file__).resolve().parents[2] / "proto"

CALLS = {
    "an integer": Call(["numpy", ("array", [[2, 4, 6]]), "sum"], [], 12),
    "a float": Call(["math", "sqrt"], [16], 4.0),
    "a long integer": Call(["operator", "pow"], [10, 40], 10**40),
    "nothing": Call(["print"], ["told"], None),
    "truth": Call(["all"], [[True, 1]], True),
    "text": Call(["str", "upper"], ["naïve 😀"], "NAÏVE 😀"),
    "a decimal": Call(["decimal", "Decimal"], ["1.50"], "1.50"),
    "bytes": Call(["bytes", "fromhex"], ["00ff"], b"\x00\xff"),
    "bytes there and back": Call(["operator", "add"], [b"\x00", b"\r\n\xff"], b"\x00\r\n\xff"),
    "a list": Call(["sorted"], [[3, 1, 2.5]], [1, 2.5, 3]),
    "an object": Call(["dict"], [[["b", [1]], ["a", None]]], {"b": [1], "a": None}),
    "an object that looks like a tag": Call(["copy", "copy"], [{"$file": "x"}], {"$file": "x"}),
    "an array": Call(["numpy", ("arange", [6]), "reshape"], [2, 3], [[0, 1, 2], [3, 4, 5]]),
    "items": Call(["itertools", "chain"], [[1], ["a"]], [1, "a"]),
    "an exception": Call(["math", "sqrt"], [-1], Raised("ValueError", "math domain error")),
    "no such name": Call(["no_such_module", "f"], [], Refused("name_not_found", "namepath[0]")),
    "no such attribute": Call(["math", "squirt"], [1], Refused("attribute_not_found", "namepath[1]")),
    "no function": Call(["math", "pi"], [1], Refused("not_callable", "args")),
}


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[Session]:
    opened = server.session("agreeing", dependencies=["numpy"])
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """What `protoc` makes of the file that is shipped."""
    directory = tmp_path_factory.mktemp("stock")
    made = directory / "kodou" / "v1" / "kodou_pb2.py"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={directory}"]
    subprocess.run([*command, "kodou/v1/kodou.proto"], check=True)
    spec = spec_from_file_location("stock_kodou_pb2", made)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", CALLS)
def test_all_clients_get_the_same_answer(session: Session, stock: ModuleType, name: str) -> None:
    call = CALLS[name]
    for client in (by_curl, by_form, by_sdk, by_protobuf(stock)):
        outcome = client(session, call)
        assert (outcome, type(outcome)) == (call.outcome, type(call.outcome)), client


def test_postmans_runner_gets_it_too(server: Server, session: Session, newman: Path, tmp_path: Path) -> None:
    collection = tmp_path / "calls.json"
    schema = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
    items = [item(session, name, call) for name, call in CALLS.items()]
    collection.write_text(json.dumps({"info": {"name": "calls", "schema": schema}, "item": items}))
    out = run([str(newman), "run", str(collection), "--bail", "--color", "off"], server)
    assert all(name in out for name in CALLS)


def item(session: Session, name: str, call: Call) -> dict[str, Any]:
    """A request of a collection, with a test of its reply."""
    match call.outcome:
        case Raised(type_, text):
            got, expected = "[body.exception.type, body.exception.message]", json.dumps([type_, text])
        case Refused(code, field):
            got, expected = "[body.code, body.field]", json.dumps([code, field])
        case value:
            got, expected = "[body.error, body.value]", json.dumps([False, as_json(value)])
    script = [
        "const body = pm.response.json();",
        f"pm.test('the answer', () => pm.expect({got}).to.eql({expected}));",
    ]
    header = {"key": "Authorization", "value": session.client.headers["Authorization"]}
    body = {"mode": "raw", "raw": json.dumps(body_of(session, call))}
    request = {
        "method": "POST",
        "header": [header],
        "url": f"{session.client.base_url}{CALL}",
        "body": body,
    }
    return {"name": name, "request": request, "event": [{"listen": "test", "script": {"exec": script}}]}
