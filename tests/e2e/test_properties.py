"""Whatever is called, over HTTP, comes to what the same expression comes to in this process. Thousands of random ones."""

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.e2e.compositions import Composition, ended, list_operations, pipelines
from tests.e2e.expressions import NAMES_OF_KEPT, Expression, TypedArguments, escaped, expressions, typed_arguments
from tests.e2e.library import json_values
from tests.e2e.outcomes import NoValue, as_json, told
from tests.e2e.parts import Part, parts_of
from tests.fuzz.conftest import fuzz_seconds
from tests.servers import Server, Session

pytestmark = [pytest.mark.index, pytest.mark.slow]

CALL = "/environment/python/call"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_SECONDS = 50  # that all of it takes on a backend
NUMPY = f"numpy=={importlib.metadata.version('numpy')}"


def examples(count: int) -> settings:
    """What one example takes is a request or two: no deadline, and nothing is kept for the next run. `scripts/fuzz` runs more."""
    more = max(1, fuzz_seconds(_SECONDS) // _SECONDS)
    return settings(max_examples=count * more, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def numeric(server: Server) -> Iterator[Session]:
    """The interpreter and numpy of this process, as near as the backend has them; it keeps what `KEPT` names."""
    opened = server.session("properties", version=PYTHON, dependencies=[NUMPY])
    for names, reference in NAMES_OF_KEPT.items():
        kept = opened.value("pydoc.locate", ".".join(names), keep=True)
        assert kept["$ref"] == reference
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def others(server: Server) -> Iterator[list[Session]]:
    """Two more like it, which keep nothing."""
    opened = [server.session("properties", version=PYTHON, dependencies=[NUMPY]) for _ in range(2)]
    yield opened
    for session in opened:
        session.close()


def called(session: Session, members: dict[str, Any], path: str = CALL) -> dict[str, Any]:
    """The body of a reply that is no refusal."""
    name = "sessionid" if path == CALL else "session"
    reply = session.client.post(path, content=json.dumps({name: session.id, **members}))
    assert reply.status_code == 200, (members, reply.text)
    return dict(reply.json())


def check_same(told: Any, expected: Any) -> None:
    """(pytest takes minutes to show how long texts differ, and hypothesis asks for it again and again.)"""
    if told != expected:
        raise AssertionError("\n".join([repr(told)[:2000], "instead of", repr(expected)[:2000]]))


def test_expressions(numeric: Session) -> None:
    """Of any function that is exported, with arguments of any kind, in any of the ways to spell them."""

    @examples(700)
    @given(expressions())
    def holds(expression: Expression) -> None:
        accept = "application/json; profile=nonfinite" if expression.as_strings else "application/json"
        body = json.dumps({"sessionid": numeric.id, **expression.members}, ensure_ascii=False)
        reply = numeric.client.post(CALL, content=body.encode(), headers={"Accept": accept})
        check_same(told(reply.status_code, reply.json()), expression.outcome)
        check_same(reply.json().get("stdout", ""), expression.printed)

    holds()


def test_arguments_by_position_and_by_name(numeric: Session) -> None:
    @examples(100)
    @given(st.lists(json_values, max_size=3), st.dictionaries(st.text(max_size=4), json_values, max_size=3))
    def holds(args: list[Any], kwargs: dict[str, Any]) -> None:
        reply = called(numeric, {"namepath": "itertools.repeat", "args": [escaped(args), 2]})
        assert reply["value"] == [args, args]
        assert called(numeric, {"namepath": "dict", "kwargs": escaped_members(kwargs)})["value"] == kwargs
        assert called(numeric, {"namepath": "dict", "args": escaped_members(kwargs)})["value"] == kwargs

    holds()


def escaped_members(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: escaped(value) for name, value in kwargs.items()}


def test_typed_arguments(numeric: Session) -> None:
    @examples(150)
    @given(typed_arguments(), st.booleans())
    def holds(arguments: TypedArguments, within: bool) -> None:
        """`repr` of each, so that a wrong type shows."""
        template = "|".join(["{!r}"] * len(arguments.values))
        last: Any = {"name": "format", "tuple": arguments.entries} if within else "format"
        members = {} if within else {"tuple": arguments.entries}
        reply = called(numeric, {"namepath": [{"name": "str", "args": [template]}, last], **members})
        if arguments.at is None:
            assert reply["value"] == template.format(*arguments.values)
        else:
            assert told(200, reply) == arguments.values[-1]
            assert reply["field"] == ("namepath[1]." if within else "") + arguments.at

    holds()


class References(RuleBasedStateMachine):
    """A session keeps the very objects, under names that mean nothing else, until they are dropped."""

    session: Session

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Any] = {}

    def keep(self, value: Any, **members: Any) -> None:
        told = called(self.session, {**members, "keep": True})["value"]
        assert told["$ref"] not in self.kept
        self.kept[told["$ref"]] = value

    def one(self, data: st.DataObject) -> tuple[str, Any]:
        return data.draw(st.sampled_from(sorted(self.kept.items(), key=lambda pair: pair[0])))

    @rule(value=json_values)
    def keep_a_value(self, value: Any) -> None:
        self.keep(deepcopy(value), namepath="copy.deepcopy", args=[escaped(value)])

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), value=json_values)
    def keep_what_holds_others(self, data: st.DataObject, value: Any) -> None:
        (first, one), (second, other) = self.one(data), self.one(data)
        if len(json.dumps([one, other])) < 1000:
            self.keep([one, other, value], namepath="list", args=[[{"$ref": first}, {"$ref": second}, escaped(value)]])

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), value=json_values)
    def change_one(self, data: st.DataObject, value: Any) -> None:
        name, object_ = self.one(data)
        if isinstance(object_, list):
            object_.append(value)
            called(self.session, {"namepath": [{"ref": name}, "append"], "args": [escaped(value)]})

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def read_one(self, data: st.DataObject) -> None:
        name, object_ = self.one(data)
        assert called(self.session, {"namepath": [{"ref": name}]})["value"] == object_

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def compare_two(self, data: st.DataObject) -> None:
        (first, one), (second, other) = self.one(data), self.one(data)
        reply = called(self.session, {"namepath": "operator.eq", "args": {"a": {"$ref": first}, "b": {"$ref": second}}})
        reply = called(self.session, {"namepath": "operator.is_", "args": [{"$ref": first}, {"$ref": second}]})
        if first == second or isinstance(one, list | dict):
            assert reply["value"] is (one is other)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def use_one_and_drop_it(self, data: st.DataObject) -> None:
        name, object_ = self.one(data)
        reply = called(self.session, {"namepath": "list", "args": [[{"$ref": name}]], "drop": [name]})
        assert reply["value"] == [object_]
        del self.kept[name]
        refused = self.session.post("list", [{"$ref": name}])
        assert (refused.status_code, refused.json()["code"]) == (422, "reference_not_found")

    @invariant()
    def the_list_is_right(self) -> None:
        reply = self.session.client.get("/session/references", headers={"X-Session-ID": self.session.id})
        others = set(NAMES_OF_KEPT.values())
        assert {each["$ref"] for each in reply.json()["value"]} - others == self.kept.keys()

    def teardown(self) -> None:
        if self.kept:
            called(self.session, {"drop": list(self.kept)})


def test_references(numeric: Session) -> None:
    class OfThisSession(References):
        session = numeric

    run_state_machine_as_test(OfThisSession, settings=settings(examples(40), stateful_step_count=12))  # type: ignore[no-untyped-call]


def test_arrays_and_bytes_cross_as_they_are(numeric: Session) -> None:
    """As files of a request; then back raw, as numpy's own files, and as the parts of a typed reply."""
    kinds = arrays.scalar_dtypes() | arrays.byte_string_dtypes(max_len=4) | arrays.unicode_string_dtypes(max_len=4)
    shapes = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)

    @examples(60)
    @given(arrays.arrays(kinds.map(lambda dtype: dtype.newbyteorder("<")), shapes))
    def holds(array: Any) -> None:
        tag = {"$array": "a", "dtype": array.dtype.str, "shape": array.shape}
        assert returned(numeric, tag, array.tobytes(), "application/octet-stream").content == array.tobytes()
        read = np.load(BytesIO(returned(numeric, tag, array.tobytes(), "application/x-npy").content))
        assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())
        typed = parts_of(returned(numeric, tag, array.tobytes(), "multipart/form-data"))
        value = json.loads(typed["reply"].content)["value"]
        assert value == {**tag, "$array": value["$array"], "shape": list(array.shape)}
        assert typed[value["$array"]].content == array.tobytes()

    @examples(100)
    @given(st.binary(max_size=2000))
    def bytes_do_too(data: bytes) -> None:
        assert returned(numeric, {"$file": "a"}, data, "application/octet-stream").content == data
        assert returned(numeric, {"$file": "a"}, data, "application/json").json()["value"] == as_json(data)

    holds()
    bytes_do_too()


def returned(session: Session, tag: dict[str, Any], data: bytes, accept: str) -> Any:
    """The reply to a call that gives back its argument, which is a file of the request."""
    call = {"sessionid": session.id, "namepath": "copy.copy", "args": [tag]}
    body, content_type = Part.encode({"call": Part(json.dumps(call).encode()), "a": Part(data, file_name="a.bin")})
    reply = session.client.post(CALL, content=body, headers={"Accept": accept, "Content-Type": content_type})
    assert reply.status_code == 200, reply.text
    return reply


def check(session: Session, composition: Composition, way: str = "body") -> None:
    """`way`: how the request says which session takes the stages that name none."""
    named = {"session": session.id} if way == "body" else {}
    reply = session.client.post(
        "/kompose",
        content=json.dumps({**named, **composition.members}),
        params={"jwt": session.id} if way == "query" else None,
        headers={"X-Session-ID": session.id} if way == "header" else None,
    )
    check_same(told(reply.status_code, reply.json()), composition.outcome)
    place = {name: reply.json()[name] for name in ("pipe", "stage", "item") if name in reply.json()}
    check_same((place, composition.members), (composition.place, composition.members))


ways = st.sampled_from(["body", "query", "header"])


def test_pipelines(numeric: Session) -> None:
    @examples(200)
    @given(pipelines(), ways)
    def holds(composition: Composition, way: str) -> None:
        check(numeric, composition, way)

    holds()


def test_pipes(numeric: Session, others: list[Session]) -> None:
    """Through three sessions, in any order."""

    @examples(250)
    @given(pipelines(sessions=[each.id for each in others]), ways)
    def holds(composition: Composition, way: str) -> None:
        check(numeric, composition, way)

    holds()


def test_list_operations(numeric: Session) -> None:
    @examples(200)
    @given(list_operations())
    def holds(composition: Composition) -> None:
        check(numeric, composition)

    holds()


def test_list_operations_over_several_sandboxes(numeric: Session, others: list[Session]) -> None:
    """Alone, as stages, and in pipes."""
    sessions = [each.id for each in others]

    @examples(30)
    @given(list_operations(parallel=3) | pipelines(parallel=True) | pipelines(sessions=sessions, parallel=True))
    def holds(composition: Composition) -> None:
        check(numeric, composition)

    holds()


def test_what_does_not_come_back(others: list[Session]) -> None:
    """A deadline and a process that ends: told with where it was, whatever came before; and the session goes on."""

    @examples(10)
    @given(ended(sessions=[each.id for each in others]))
    def holds(composition: Composition) -> None:
        for session in others:  # a fresh interpreter takes its time to import it
            session.value("numpy.abs", -1)
        limit = {"timeout": 3000} if composition.outcome == NoValue("timeout") else {}
        check(others[0], Composition({**composition.members, **limit}, composition.outcome, composition.place))

    holds()
