"""Protocol section 4: pipelines, pipes and list operations, on real sandboxes."""

import importlib.metadata
import json
import sys
from base64 import b64encode
from collections.abc import Iterator
from functools import reduce
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.servers import Server, Session

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
NUMPY = f"numpy=={importlib.metadata.version('numpy')}"


def post(session: Session, body: dict[str, Any], **options: Any) -> httpx.Response:
    return session.client.post("/kompose", params={"jwt": session.id}, content=json.dumps(body), **options)


def composed(session: Session, body: dict[str, Any]) -> dict[str, Any]:
    reply = post(session, body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def value(session: Session, body: dict[str, Any]) -> Any:
    reply = composed(session, body)
    assert reply["error"] is False, reply
    return reply["value"]


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[Session]:
    opened = server.session("composer", env={"MARK": "composer"})
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def another(server: Server) -> Iterator[Session]:
    opened = server.session("composer", env={"MARK": "another"})
    yield opened
    opened.close()


def live(session: Session) -> int:
    """Sessions that take calls: those of a composition are still being closed when it is answered."""
    sessions = session.client.get("/session").json()["sessions"]
    return sum(each["state"] not in ("closing", "closed") for each in sessions)


def test_a_pipeline_hands_objects_on_as_they_are(session: Session) -> None:
    assert value(session, {"args": ["one\ntwo"], "pipeline": ["io.StringIO", "next"]}) == "one\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"args": [[1, 2, 3]], "pipeline": ["sum", ["math", "sqrt"]]}, 6**0.5),
        ({"args": [3], "pipeline": ["range", "iter", "next"]}, 0),
        ({"tuple": [{"16": "decimal.Decimal"}], "pipeline": ["decimal.Decimal.sqrt", "str"]}, "4"),
        ({"args": ["a b"], "pipeline": ["str.split", [{"name": "str"}, {"name": "join", "args": ["-"]}]]}, "a-b"),
        ({"listop": {"op": "map", "function": "math.sqrt", "list": [1, 4, 9]}}, [1, 2, 3]),
        ({"listop": {"op": "reduce", "function": "operator.mul", "list": ["2", "3", "7", ["int"]]}}, 42),
        ({"listop": {"op": "sort", "list": [3, 1, 2]}}, [1, 2, 3]),
        ({"args": [4], "pipeline": ["range", {"listop": {"op": "filter", "function": "bool"}}, {"op": "any"}]}, True),
    ],
)  # fmt: skip
def test_one_session_takes_it_all(session: Session, body: dict[str, Any], expected: Any) -> None:
    assert value(session, body) == expected


def test_pipes_go_through_several_sessions_and_bytes_stay_bytes(session: Session, another: Session) -> None:
    mark = {"$bytes": "TUFSSw=="}
    pipes = [
        {"pipeline": ["os.getenvb"]},
        {},
        {"session": another.id, "pipeline": [[{"name": "bytes"}, "hex"]]},
        {"pipeline": ["bytes.fromhex", "bytes.decode"]},
    ]
    assert value(session, {"args": [mark], "pipes": pipes}) == "composer"
    pipes = [{"session": another.id, "pipeline": ["os.getenvb"]}, {"pipeline": ["bytes.decode"]}]
    assert value(session, {"args": [mark], "pipes": pipes}) == "another"


def test_a_spread_list_operation_runs_in_sandboxes_of_the_same_kind_and_leaves_none(session: Session) -> None:
    before = live(session)
    getenv: Any = [{"moduleName": "os"}, {"name": "environ"}, "__getitem__"]
    assert (
        value(session, {"listop": {"op": "map", "function": getenv, "list": ["MARK"] * 6, "parallel": 3}})
        == ["composer"] * 6
    )
    assert live(session) == before


def test_each_sandbox_has_a_state_of_its_own(own_session: Session) -> None:
    own_session.value("sys.setrecursionlimit", 1234)
    operation = {"op": "starmap", "function": "sys.getrecursionlimit", "parallel": 3}
    first, *others = value(own_session, {"args": [[[], [], []]], "pipeline": [operation]})
    assert first == 1234
    assert 1234 not in others


@pytest.mark.parametrize(
    ("listop", "item"),
    [
        ({"op": "map", "function": "math.sqrt", "list": [1, 4, -1, 9, -2], "parallel": 4}, 2),
        ({"op": "map", "function": "math.sqrt", "list": ["1", "x", "4", ["float"]], "parallel": 3}, 1),
    ],
)
def test_the_first_item_that_fails_is_named_and_no_sandbox_is_left(session: Session, listop: Any, item: int) -> None:
    before = live(session)
    reply = composed(session, {"listop": listop})
    assert (reply["code"], reply["item"]) == ("exception", item)
    assert live(session) == before


def test_a_part_that_is_cut_off_names_its_stage_and_item(session: Session, another: Session) -> None:
    naps = {"op": "map", "function": "time.sleep"}
    pipes = [{"pipeline": ["list"]}, {}, {"session": another.id, "pipeline": ["list", naps, "len"]}]
    place = {"code": "timeout", "pipe": 2, "stage": 1, "item": 2}
    # A busy machine may not get there, or tell it when the client is to hear.
    for timeout in (*[2000] * 10, *[20_000] * 5):
        reply = composed(session, {"args": [[0, 0, 600]], "pipes": pipes, "timeout": timeout})
        if place.items() <= reply.items():
            break
    assert place.items() <= reply.items()
    ends = {"op": "map", "function": "eval", "parallel": 2}
    code = ["0", "0", "0", "__import__('os')._exit(7)"]
    reply = composed(session, {"args": [code], "pipeline": ["list", ends]})
    assert {"code": "worker_died", "exit_code": 7, "stage": 1, "item": 3}.items() <= reply.items()
    reply = composed(session, {"args": [7], "pipeline": ["abs", "os._exit"]})
    assert {"code": "worker_died", "exit_code": 7, "stage": 1, "restarted": True}.items() <= reply.items()


def test_one_deadline_covers_all_parts(session: Session, another: Session) -> None:
    pipes = [{"pipeline": ["int"]}, {"session": another.id, "pipeline": ["time.sleep"]}]
    for timeout in (700, 7000, 70_000):  # a busy machine may not get to the second by then
        reply = composed(session, {"args": [600], "pipes": pipes, "timeout": timeout})
        if reply["pipe"] == 1:
            break
    assert (reply["code"], reply["pipe"], reply["restarted"]) == ("timeout", 1, True)
    before = live(session)
    reply = composed(
        session, {"listop": {"op": "map", "function": "time.sleep", "list": [0, 600], "parallel": 2}, "timeout": 3000}
    )
    assert reply["code"] == "timeout"
    assert "restarted" not in reply  # it was in a sandbox beside the session's
    assert live(session) == before


def streamed(session: Session, body: dict[str, Any]) -> list[tuple[str, Any]]:
    text = post(session, body, headers={"Accept": "text/event-stream"}).text
    pairs = [event.split("\ndata: ") for event in text.removesuffix("\n\n").split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data)) for name, data in pairs]


def test_each_sandbox_tells_what_it_prints_and_the_last_one_its_items(session: Session, another: Session) -> None:
    spread = {"op": "map", "function": "print", "parallel": 2}
    pipes = [{"pipeline": ["str.split", "iter"]}, {"session": another.id, "pipeline": [spread, "len"]}]
    *told, (last, result) = streamed(session, {"args": ["a b"], "pipes": pipes})
    assert sorted((name, event["pipe"], event["stage"], event["stdout"]) for name, event in told) == [
        ("output", 1, 0, "a\n"),
        ("output", 1, 0, "b\n"),
    ]
    assert (last, result["value"], "stdout" in result) == ("result", 2, False)
    pipes = [{"pipeline": ["str.split", "iter"]}, {"session": another.id, "pipeline": ["reversed"]}]
    *told, (last, result) = streamed(session, {"args": ["a b"], "pipes": pipes})
    assert told == [("item", {"pipe": 1, "stage": 0, "index": number, "value": "ba"[number]}) for number in (0, 1)]
    assert (last, result["items"]) == ("result", 2)


def kept_in(session: Session) -> Any:
    return session.client.get("/session/references", headers={"X-Session-ID": session.id}).json()["value"]


def test_a_composition_that_fails_keeps_nothing(session: Session, another: Session) -> None:
    before = kept_in(session), kept_in(another)
    pipes = [{"pipeline": ["int"]}, {"session": another.id, "pipeline": ["int", "math.nothing"]}]
    reply = post(session, {"args": [1], "pipes": pipes, "keep": True})
    assert (reply.status_code, reply.json()["pipe"], reply.json()["stage"]) == (422, 1, 1)
    assert (kept_in(session), kept_in(another)) == before


def test_what_is_kept_is_an_argument_of_the_next(session: Session) -> None:
    kept = value(
        session, {"args": [3], "pipeline": ["range", {"op": "map", "function": "str", "parallel": 2}], "keep": True}
    )
    assert kept["type"] == "list"
    ref = {"$ref": kept["$ref"]}
    assert value(session, {"args": [ref], "pipeline": ["len"], "drop": [kept["$ref"]]}) == 3
    assert post(session, {"args": [ref], "pipeline": ["len"]}).json()["code"] == "reference_not_found"


def test_sessions_of_others_are_forbidden_and_nothing_runs(server: Server, session: Session) -> None:
    foreign = server.session("stranger")
    limit = session.value("sys.getrecursionlimit")
    pipes = [{"pipeline": ["sys.setrecursionlimit"]}, {"session": foreign.id, "pipeline": ["id"]}]
    reply = post(session, {"args": [limit + 1], "pipes": pipes})
    assert (reply.status_code, reply.json()["code"], reply.json()["pipe"]) == (403, "forbidden", 1)
    assert session.value("sys.getrecursionlimit") == limit
    foreign.close()


def test_a_session_id_alone_is_enough_until_its_key_is_revoked(server: Server) -> None:
    own = server.session("leaver")
    anyone = server.bearing()
    body = {"args": [[1, 2]], "pipeline": ["sum"]}
    assert anyone.post("/kompose", params={"jwt": own.id}, json=body).json()["value"] == 3
    assert anyone.post("/kompose", headers={"Authorization": f"Bearer {own.id}"}, json=body).status_code == 401
    server.kodou("keys", "revoke", server.key("leaver")["id"])
    assert anyone.post("/kompose", params={"jwt": own.id}, json=body).status_code == 401


def test_the_token_of_the_query_is_in_no_log(server: Server, session: Session) -> None:
    value(session, {"args": [[1]], "pipeline": ["sum"]})
    assert session.id not in server.log.read_text()


# --- numpy, and whatever comes ---


@pytest.fixture(scope="module")
def numeric(server: Server) -> Iterator[Session]:
    opened = server.session("composer", version=PYTHON, dependencies=[NUMPY])
    yield opened
    opened.close()


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.index
def test_arrays_cross_sessions_as_they_are(numeric: Session) -> None:
    shapes = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)
    kinds = (
        arrays.integer_dtypes(endianness="<")
        | arrays.floating_dtypes(endianness="<", sizes=(32, 64))
        | arrays.boolean_dtypes()
    )

    @examples(40)
    @given(arrays.arrays(kinds, shapes))
    def holds(array: Any) -> None:
        data = {"$bytes": b64encode(array.tobytes()).decode()}
        shape: Any = [{"moduleName": "numpy"}, {"name": "ndarray", "args": [list(array.shape), array.dtype.str]}]
        pipes = [
            {"pipeline": [shape]},
            {"pipeline": ["numpy.transpose", "numpy.transpose", "numpy.ndarray.tobytes", "bytes.hex"]},
        ]
        assert value(numeric, {"args": [data], "pipes": pipes}) == array.tobytes().hex()

    holds()


@pytest.mark.index
def test_random_operations_in_random_sandboxes_come_to_what_numpy_makes_of_them(numeric: Session) -> None:
    functions = {"negative": np.negative, "square": np.square, "abs": np.abs, "sign": np.sign, "floor": np.floor}
    chosen = st.lists(st.tuples(st.sampled_from(sorted(functions)), st.sampled_from([None, 2])), min_size=1, max_size=3)

    @examples(15)
    @given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=9), chosen)
    def holds(items: list[int], stages: list[tuple[str, int | None]]) -> None:
        pipeline = [
            {"op": "map", "function": ["numpy", name], **({} if parallel is None else {"parallel": parallel})}
            for name, parallel in stages
        ]
        expected = [reduce(lambda number, stage: functions[stage[0]](number), stages, item) for item in items]
        assert value(numeric, {"args": [items], "pipeline": pipeline}) == [float(number) for number in expected]

    holds()
