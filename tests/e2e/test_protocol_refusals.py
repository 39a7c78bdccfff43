"""What docs/protocol.md says is refused: each with its status, its code, and the position that the reply names."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.parts import Part
from tests.e2e.refusals import CALL, CHANGES, COMPOSE, INVALID, SETUP, TABLE, Case, called
from tests.servers import Server, Session


@pytest.fixture(scope="module")
def numeric(server: Server) -> Iterator[Session]:
    opened = server.session("shared", dependencies=["numpy"])
    yield opened
    opened.close()


def refused(reply: Any, case: Case) -> None:
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem.get("field")) == case[1:], reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert problem["error"] is True
    assert problem["status"] == case.status
    assert problem["detail"]
    assert problem["title"]
    assert problem["request_id"] == reply.headers["x-request-id"]


def post(session: Session, path: str, body: Any, **headers: str) -> Any:
    """A request that names its session as its route wants it."""
    if isinstance(body, str):
        content = body.replace("SESSION", session.id)
    else:
        named = {} if path == SETUP else {"session" if path == COMPOSE else "sessionid": session.id}
        content = json.dumps({**named, **body} if isinstance(body, dict) else body)
    return session.client.post(path, content=content, headers=headers)


@pytest.mark.parametrize(("path", "case"), TABLE)
def test_it_is_refused_with_its_position(session: Session, path: str, case: Case) -> None:
    refused(post(session, path, case.body), case)


@pytest.mark.parametrize("change", CHANGES)
def test_a_lock_that_was_changed_is_refused(session: Session, change: str) -> None:
    within, beside, field = CHANGES[change]
    environment = session.client.get(f"/environment/python/{session.setup['environment']['id']}").json()
    reply = post(session, SETUP, {"lock": {**environment["lock"], **within}, **beside})
    refused(reply, Case(None, 422, INVALID, field))


# --- Accept ---


@pytest.mark.parametrize(
    ("accept", "value", "among"),
    [
        ("audio/ogg", 1, ["application/json", "text/csv", "text/event-stream"]),
        ("image/png", 1, ["application/json", "multipart/form-data", "text/plain"]),
        ("application/x-npy", "text", ["application/json", "text/plain"]),
        ("text/csv, application/octet-stream", 1, ["application/json", "text/plain"]),
    ],
)
def test_a_form_that_a_value_has_not_is_refused_with_those_it_has(
    session: Session, accept: str, value: Any, among: list[str]
) -> None:
    reply = post(session, CALL, {"namepath": "copy.copy", "args": [value]}, Accept=accept)
    refused(reply, Case(None, 406, "not_acceptable"))
    assert set(among) <= set(reply.json()["available"])
    assert not set(accept.split(", ")) & set(reply.json()["available"])


# --- multipart ---

FILE = Part(b"1234", file_name="f.bin")
SHAPED = {"$array": "f", "dtype": "<f8", "shape": [1]}


@pytest.mark.parametrize(
    ("args", "files", "case"),
    [
        ([], {"f": FILE}, Case(None, 422, INVALID, "f")),
        ([{"$file": "f"}], {"g": FILE}, Case(None, 422, INVALID, "args[0]")),
        ([SHAPED], {"f": FILE}, Case(None, 422, INVALID, "args[0]")),  # there is no numpy
    ],
)
def test_files_that_do_not_fit_their_call_are_refused(
    session: Session, args: list[Any], files: dict[str, Part], case: Case
) -> None:
    body = {"sessionid": session.id, "namepath": "len", "args": args}
    refused(form(session, {"call": Part(json.dumps(body).encode()), **files}), case)


ARRAYS = [
    ({"dtype": "O"}, "dtype"),
    ({"dtype": "zz"}, "dtype"),
    ({"dtype": 8}, "dtype"),
    ({"shape": [-1]}, "shape"),
    ({"shape": 1}, "shape"),
    ({"shape": [2]}, None),
]


@pytest.mark.index
@pytest.mark.parametrize(("members", "at"), ARRAYS)
def test_an_array_that_its_file_is_not_is_refused(numeric: Session, members: dict[str, Any], at: str | None) -> None:
    body = {"sessionid": numeric.id, "namepath": "len", "args": [{**SHAPED, **members}]}
    reply = form(numeric, {"call": Part(json.dumps(body).encode()), "f": FILE})
    refused(reply, Case(None, 422, INVALID, "args[0]" if at is None else f"args[0].{at}"))


def test_a_form_without_its_call_is_refused(session: Session) -> None:
    refused(form(session, {"f": FILE}), Case(None, 422, INVALID, "call"))


def test_a_form_that_is_none_is_refused(session: Session) -> None:
    content_type = "multipart/form-data; boundary=x"
    refused(post(session, CALL, "no form", **{"Content-Type": content_type}), Case(None, 400, INVALID))
    cut_off = '--x\r\nContent-Disposition: form-data; name="call"\r\n\r\n{"name'
    refused(post(session, CALL, cut_off, **{"Content-Type": content_type}), Case(None, 400, INVALID))


def form(session: Session, parts: dict[str, Part]) -> Any:
    body, content_type = Part.encode(parts)
    return session.client.post(CALL, content=body, headers={"Content-Type": content_type})


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ("\x0a\x05ab", 400, None),  # ends inside a text
        ("\x0b", 422, "sessionid"),  # a group, not a text
        ("\x08\x01", 422, "sessionid"),  # a number
        ("\x7a\x00", 422, "15"),  # no such field
        ("", 422, "namepath"),
    ],
)
def test_a_message_that_is_no_call_is_refused(session: Session, body: str, status: int, field: str | None) -> None:
    reply = post(session, CALL, body, **{"Content-Type": "application/x-protobuf"})
    refused(reply, Case(None, status, INVALID, field))


# --- whose it is ---


def test_a_pipe_through_another_owners_session_is_forbidden(server: Server, session: Session) -> None:
    other = server.session("mallory")
    try:
        pipes = [{"pipeline": ["list"]}, {"session": other.id, "pipeline": ["len"]}]
        refused(post(session, COMPOSE, {"args": [[1]], "pipes": pipes}), Case(None, 403, "forbidden", None))
    finally:
        other.close()


@pytest.mark.parametrize(
    ("query", "owner", "case"),
    [
        ("", None, Case(None, 401, "unauthorized")),
        ("?jwt=nonsense", None, Case(None, 401, "unauthorized")),
        ("?jwt=API_ID", "mallory", Case(None, 422, INVALID, "query.jwt")),  # another key than in the header
        ("?jwt=SESSION&jwt=SESSION", "shared", Case(None, 422, INVALID, "query.jwt")),
        ("?token=SESSION", "shared", Case(None, 422, INVALID, "query.token")),
        ("?jwt=SESSION", "mallory", Case(None, 403, "forbidden")),
        ("", "shared", Case(None, 422, INVALID, "session")),
    ],
)
def test_a_composition_of_nobody_who_may(
    server: Server, session: Session, query: str, owner: str | None, case: Case
) -> None:
    client = server.bearing() if owner is None else server.client(owner)
    api_id = server.key("shared")["api_id"]
    reply = client.post(
        COMPOSE + query.replace("SESSION", session.id).replace("API_ID", api_id), json={"pipeline": ["list"]}
    )
    refused(reply, case)


def test_a_refused_request_drops_nothing(own_session: Session) -> None:
    kept = own_session.value("dict", keep=True)["$ref"]
    refused(
        post(own_session, CALL, {"namepath": "math.nothing", "drop": [kept]}),
        Case(None, 422, "attribute_not_found", "namepath[1]"),
    )
    assert own_session.value([{"ref": kept}]) == {}


def test_after_a_timeout_a_reference_is_refused_and_never_means_another_object(own_session: Session) -> None:
    before = own_session.value("dict", keep=True)["$ref"]
    assert own_session.call("time.sleep", 60, timeout=200)["code"] == "timeout"
    refused(post(own_session, CALL, called(args=[{"$ref": before}])), Case(None, 422, "reference_not_found", "args[0]"))
    after = own_session.value("list", keep=True)["$ref"]
    assert after != before
    refused(post(own_session, CALL, {"drop": [before]}), Case(None, 422, "reference_not_found", "drop[0]"))
