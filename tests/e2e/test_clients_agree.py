"""The same calls by curl, as a form with files, by a stock Protocol Buffers client, both kinds of the SDK and Postman's
runner: one answer. The calls that have a value or raise are evaluated in this process too."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import assume, given, reject

from tests.e2e.clients import (
    CALL,
    Answer,
    Call,
    Client,
    body_of,
    by_async_sdk,
    by_curl,
    by_form,
    by_http,
    by_protobuf,
    by_sdk,
    evaluated,
    tagged,
    token_of,
)
from tests.e2e.expressions import Argument, Arguments, paths
from tests.e2e.expressions import Path as PathOfSteps
from tests.e2e.library import KINDS
from tests.e2e.outcomes import NoValue, Raised, Refused, Unordered, Value
from tests.e2e.test_examples import newman, run
from tests.e2e.test_properties import NUMPY, PYTHON, examples
from tests.servers import Server, Session

__all__ = ["newman"]  # a fixture

pytestmark = pytest.mark.index

PROTO = Path(__file__).resolve().parents[2] / "proto"

# Whose answer is what the same comes to in this process.
EVALUATED = {
    "nothing": Call(["print"], ["told"]),
    "truth": Call(["all"], [[True, 1]]),
    "falsehood": Call(["bool"], []),
    "an integer": Call(["numpy", ("array", [[2, 4, 6]]), "sum"]),
    "a negative one": Call(["operator", "neg"], [2**53 + 1]),
    "one of 64 bits": Call(["operator", "add"], [2**63, 2**63 - 1]),
    "a long one": Call(["operator", "pow"], [10, 40]),
    "a long one there and back": Call(["abs"], [-(10**40)]),
    "a float": Call(["math", "sqrt"], [16]),
    "a float that stays one": Call(["copy", "copy"], [1.0]),
    "a tiny one": Call(["operator", "truediv"], [5e-324, 1]),
    "minus nothing": Call(["operator", "neg"], [0.0]),
    "no number": Call(["math", "fsum"], [[float("nan")]]),
    "infinities": Call(["sorted"], [[float("inf"), 1, float("-inf")]]),
    "text": Call(["str", "upper"], ["naïve 😀"]),
    "text with what is special": Call(["str", "format"], ['{}"\\\x00\u2028\n', "\x7f"]),
    "half a character": Call(["chr"], [0xD800]),
    "bytes": Call(["bytes", "fromhex"], ["00ff"]),
    "bytes there and back": Call(["operator", "add"], [b"\x00", b"\r\n\xff"]),
    "no bytes": Call(["bytes"], []),
    "a list": Call(["sorted"], [[3, 1, 2.5]]),
    "an empty list": Call(["list"], []),
    "an object": Call(["dict"], [[["b", [1]], ["a", None]]]),
    "an object of keywords": Call(["dict"], [], {"b": 1, "a": {"c": [None]}, "é": b"\x01"}),
    "an object that looks like a tag": Call(["copy", "copy"], [{"$file": "x"}]),
    "others that do": Call(["list"], [[{"$ref": "r1"}, {"$bytes": "AAEC"}, {"$object": {}}, {"$float": "NaN"}]]),
    "an object with other keys": Call(["dict"], [[[1, "int"], [None, "none"], [2.5, "float"]]]),
    "a tuple": Call(["divmod"], [7, 2]),
    "a set": Call(["set"], [["b", "a"]]),
    "a range": Call(["range"], [3]),
    "a complex number": Call(["complex"], [1, -0.5]),
    "a decimal": Call(["decimal", "Decimal"], ["1.50"]),
    "a fraction": Call(["fractions", "Fraction"], [6, 4]),
    "a date": Call(["datetime", "date"], [2024, 2, 29]),
    "a time": Call(["datetime", ("datetime", [2024, 2, 29, 12, 30]), "time"]),
    "a duration": Call(["datetime", "timedelta"], [1, 3.5]),
    "an id": Call(["uuid", "UUID"], ["12345678123456781234567812345678"]),
    "a path": Call(["pathlib", "PurePosixPath"], ["a", "b"]),
    "a member of an enumeration": Call(["http", "HTTPStatus"], [404]),
    "a named tuple": Call(["urllib", "parse", "urlsplit"], ["http://a/b?c"]),
    "a view": Call([("dict", [[["a", 1]]]), "items"]),
    "items": Call(["itertools", "chain"], [[1], ["a"]]),
    "an array": Call(["numpy", ("arange", [6]), "reshape"], [2, 3]),
    "an array of booleans": Call(["numpy", ("array", [[0, 1]]), "astype"], ["?"]),
    "an array with infinities": Call(["numpy", "log"], [[0.0, -1.0, 1.0]]),
    "an array of complex numbers": Call(["numpy", "array"], [[1, 2]], {"dtype": "complex64"}),
    "an array of dates": Call(["numpy", "array"], [["2024-02-29", "NaT"]], {"dtype": "M8[D]"}),
    "an array of texts": Call(["numpy", "array"], [["é", "abc"]]),
    "an array of bytes": Call(["numpy", "array"], [["a", "bc"]], {"dtype": "S3"}),
    "an array of objects": Call(["numpy", "array"], [[1, "a", None]], {"dtype": "object"}),
    "an array of nothing": Call(["numpy", "zeros"], [[0, 3]]),
    "a number of numpy's": Call(["numpy", "float32"], [0.1]),
    "arrays in a list": Call(["numpy", "split"], [[1, 2, 3, 4], 2]),
    "an exception": Call(["math", "sqrt"], [-1]),
    "an exception with a long text": Call(["int"], ["é" * 10_000]),
    "an exception on the way": Call(["numpy", ("array", [[1, 2]]), ("reshape", [3]), "sum"]),
    "arguments that do not fit": Call(["divmod"], [1]),
    "an exit": Call(["sys", "exit"], [3]),
    "no form": Call(["threading", "Lock"]),
    "no form inside": Call(["itertools", "tee"], [[1]]),
}
# Whose answer only a server has.
ANSWERED = {
    "an image": (Call(["PIL.Image", "new"], ["RGB", [1, 1], "red"]), None),
    "a frame": (Call(["polars", "DataFrame"], [{"a": [1, 2], "b": [0.5, None], "c": ["x", "é"]}]), None),
    "a lost argument": (Call(["math", "pi"], [1]), Refused("not_callable", "args")),
    "no such name": (Call(["no_such_module", "f"]), Refused("name_not_found", "namepath[0]")),
    "no such attribute": (Call(["math", "squirt"], [1]), Refused("attribute_not_found", "namepath[1]")),
    "no such session": (Call(["len"], [[]], session="none"), None),
    "no such key": (Call(["len"], [[]], token="none"), None),
    "too late": (Call(["time", "sleep"], [60], timeout_ms=50), NoValue("timeout")),
    "an end": (Call(["os", "_exit"], [3]), NoValue("worker_died")),
    "no end": (Call(["itertools", "count"]), NoValue("too_many_items")),
    "too much": (Call(["operator", "mul"], ["a", 70_000_000]), NoValue("reply_too_large")),
}

CALLS = {**EVALUATED, **{name: call for name, (call, _) in ANSWERED.items()}}


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[Session]:
    opened = server.session("agreeing", version=PYTHON, dependencies=[NUMPY, "polars", "pillow"])
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


def expected(session: Session, name: str) -> Answer:
    """Where neither this process nor the table knows: what the first client was told."""
    if name in EVALUATED:
        return evaluated(EVALUATED[name])
    call, known = ANSWERED[name]
    return by_http(session, call) if known is None else Answer(known)


@pytest.mark.parametrize("name", CALLS)
def test_all_clients_get_the_same_answer(session: Session, stock: ModuleType, name: str) -> None:
    answer = expected(session, name)
    for client in (by_curl, by_http, by_form, by_protobuf(stock), by_sdk, by_async_sdk):
        assert (client.__name__, client(session, CALLS[name])) == (client.__name__, answer)


def test_postmans_runner_gets_it_too(server: Server, session: Session, newman: Path, tmp_path: Path) -> None:
    collection = tmp_path / "calls.json"
    schema = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
    items = [item(session, name, call) for name, call in CALLS.items()]
    collection.write_text(json.dumps({"info": {"name": "calls", "schema": schema}, "item": items}))
    out = run([str(newman), "run", str(collection), "--bail", "--color", "off"], server)
    assert all(name in out for name in CALLS)


def item(session: Session, name: str, call: Call) -> dict[str, Any]:
    """A request of a collection, with a test of its reply."""
    answer = expected(session, name)
    match answer.outcome:
        case Raised(kind, text):
            got, wanted = "[body.exception.type, body.exception.message]", json.dumps([kind, text])
        case Refused(code, field):
            got, wanted = "[body.code, body.field || null]", json.dumps([code, field])
        case NoValue(code, kind):
            got, wanted = "[body.code, body.type || null]", json.dumps([code, kind])
        case Value(value, kind):
            got, wanted = "[body.error, body.value, body.type || null]", f"[false, {value}, {json.dumps(kind)}]"
    got, wanted = f"[...{got}, body.stdout || '']", f"[...{wanted}, {json.dumps(answer.printed)}]"
    script = [
        "const body = pm.response.json();",
        f"pm.test('the answer', () => pm.expect({got}).to.eql({wanted}));",
    ]
    request = {
        "method": "POST",
        "header": [{"key": "Authorization", "value": f"Bearer {token_of(session, call)}"}],
        "url": f"{session.client.base_url}{CALL}",
        "body": {"mode": "raw", "raw": json.dumps(body_of(session, call, tagged))},
    }
    return {"name": name, "request": request, "event": [{"listen": "test", "script": {"exec": script}}]}


@pytest.mark.slow
def test_all_clients_get_the_same_answers_to_random_calls(session: Session, stock: ModuleType) -> None:
    clients: list[Client] = [by_http, by_form, by_protobuf(stock), by_sdk, by_async_sdk]

    @examples(60)
    @given(paths())
    def holds(path: PathOfSteps) -> None:
        call = call_of(path)
        try:
            answer = evaluated(call)
        except Unordered:
            reject()
        assume(answer == evaluated(call))
        for client in clients:
            assert (client.__name__, client(session, call)) == (client.__name__, answer)

    holds()


def call_of(path: PathOfSteps) -> Call:
    """The same with arguments that all clients can send: JSON, and bytes."""

    def sent(argument: Argument) -> Any:
        return argument.make() if argument.kind.name in SENT else json.loads(json.dumps(argument.json))

    *inner, last = path.steps
    names: list[Any] = list(path.names)
    for step in inner:
        names.append(step.name if step.arguments is None else (step.name, [*map(sent, step.arguments.positional)]))
    given = last.arguments or Arguments()
    by_name = {name: sent(value) for name, value in given.keywords.items() if name not in ("namepath", "timeout")}
    return Call([*names, last.name], [*map(sent, given.positional)], by_name)


SENT = {kind.name for kind in KINDS.values() if not kind.type} | {"bytes"}
