"""Protocol section 2: namepaths, arguments, values; with the standard library alone."""

from typing import Any

import pytest

ELEMENT_TREE = {"moduleName": "xml.etree.ElementTree"}


@pytest.mark.parametrize(
    ("namepath", "args", "value"),
    [
        ("math.sqrt", [16], 4.0),
        (["math", "sqrt"], [16], 4.0),
        ([{"moduleName": "math"}, {"name": "sqrt"}], [16], 4.0),
        ("int", ["7"], 7),  # rule 1: a builtin, where no module has that name
        ("len", [[1, 2, 3]], 3),
        (["os", "path", "basename"], ["/a/b"], "b"),  # rule 2: attributes
        (["xml", "sax", "saxutils", "escape"], ["<"], "&lt;"),  # submodules, imported on the way
        ([ELEMENT_TREE, {"name": "fromstring", "args": ["<a><b/></a>"]}, "tag"], [], "a"),  # rule 3: called on the way
        (["datetime", "date", {"name": "fromordinal", "args": [1]}, {"name": "isoformat", "args": []}], [], "0001-01-01"),
        ("math.pi", [], 3.141592653589793),  # rule 4: no callable is the value
        ([{"name": "math"}, {"name": "pow", "args": [2]}], [10], 1024.0),  # own arguments first, then the request's
        (["decimal", "Decimal", "__init__"], ["1.50"], "1.50"),  # rule 5
        ("asyncio.sleep", [0, "slept"], "slept"),  # rule 6
        ("itertools.chain", [[1], [2, 3]], [1, 2, 3]),
    ],
)  # fmt: skip
def test_a_namepath_names_what_is_called(session: Any, namepath: Any, args: list[Any], value: Any) -> None:
    assert session.value(namepath, *args) == value


@pytest.mark.parametrize(
    ("members", "value"),
    [
        ({"args": {"obj": [1]}}, "[1]"),
        ({"args": [[1]], "kwargs": {"indent": None}}, "[1]"),
        ({"args": [], "kwargs": {"obj": {"a": True}, "sort_keys": True}}, '{"a": true}'),
    ],
)
def test_arguments_go_by_position_or_by_name(session: Any, members: dict[str, Any], value: str) -> None:
    assert session.value("json.dumps", **members) == value


@pytest.mark.parametrize(
    ("namepath", "args", "value"),
    [
        ("copy.copy", [10**30], 10**30),
        ("copy.copy", [[1, "ä", None, True, {"k": 1.5}]], [1, "ä", None, True, {"k": 1.5}]),
        ("divmod", [7, 2], [3, 1]),
        ("set", [[2, 1]], [1, 2]),
        ("bytes", [[0, 255]], {"$bytes": "AP8="}),
        ("complex", [1, 2], [1.0, 2.0]),
        ("fractions.Fraction", [1, 3], "1/3"),
        ("datetime.date", [2024, 2, 29], "2024-02-29"),
        ("datetime.timedelta", [1], "P1D"),
        ("uuid.UUID", ["12345678123456781234567812345678"], "12345678-1234-5678-1234-567812345678"),
        ("pathlib.PurePosixPath", ["/a"], "/a"),
    ],
)
def test_values_come_back_in_their_json_form(session: Any, namepath: Any, args: list[Any], value: Any) -> None:
    assert session.value(namepath, *args) == value


def test_what_json_lacks_is_null_unless_asked_for(session: Any) -> None:
    body = b'{"sessionid": "%s", "namepath": "list", "args": [[NaN, Infinity, -Infinity]]}' % session.id.encode()
    url = "/environment/python/call"
    assert session.client.post(url, content=body).json()["value"] == [None, None, None]
    profile = {"Accept": "application/json;profile=nonfinite"}
    reply = session.client.post(url, content=body, headers=profile)
    assert reply.json()["value"] == ["NaN", "Infinity", "-Infinity"]


def test_what_a_call_prints_comes_with_its_reply(session: Any) -> None:
    reply = session.call("print", "hi")
    assert (reply["value"], reply["stdout"]) == (None, "hi\n")
    assert "stdout" not in session.call("math.sqrt", 4)


def test_a_reply_tells_time_and_type(session: Any) -> None:
    reply = session.call("collections.OrderedDict", [["a", 1]])
    assert reply["ms"] >= 0
    assert reply["type"] == "collections.OrderedDict"


def test_state_lives_as_long_as_the_session(own_session: Any) -> None:
    own_session.value("random.seed", 7)
    first = own_session.value("random.random")
    own_session.value("random.seed", 7)
    assert own_session.value("random.random") == first


def test_a_session_id_may_come_in_a_header(session: Any) -> None:
    url = "/environment/python/call"
    reply = session.client.post(url, json={"namepath": "math.pi"}, headers={"X-Session-ID": session.id})
    assert reply.json()["value"] == pytest.approx(3.14159, abs=1e-4)


def test_every_reply_carries_a_request_id(session: Any) -> None:
    reply = session.client.get("/session", headers={"X-Request-ID": "mine-1"})
    assert reply.headers["x-request-id"] == "mine-1"
    assert session.post("math.sqrt", 4).headers["x-request-id"]


def test_a_megabyte_goes_there_and_back(session: Any) -> None:
    numbers = [number / 7 for number in range(60_000)]
    assert session.value("list", numbers) == numbers


@pytest.mark.parametrize("header", [{"X-Consumer-Custom-ID": "token"}, {"Authorization": "basic"}])
def test_a_call_takes_every_way_to_show_a_key(server: Any, session: Any, header: dict[str, str]) -> None:
    key = server.key("shared")
    client = server.bearing()
    body = {"sessionid": session.id, "namepath": "math.sqrt", "args": [4]}
    url = "/environment/python/call"
    if "Authorization" in header:
        reply = client.post(url, json=body, auth=(key["key"], key["secret"]))
    else:
        reply = client.post(url, json=body, headers={"X-Consumer-Custom-ID": key["api_id"]})
    assert reply.json()["value"] == 2.0
