"""What docs/protocol.md says is bounded, on a server whose bounds are small: the code says which was met, and nothing is lost."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.parts import Part
from tests.servers import Server, Session, require, running

pytestmark = pytest.mark.bubblewrap

CALL = "/environment/python/call"
BOUNDS = {
    "KODOU_MAX_REFERENCES": "2",
    "KODOU_MAX_REFERENCE_MB": "1",
    "KODOU_MAX_UPLOAD_PARTS": "3",
    "KODOU_MAX_UPLOAD_BYTES": "200000",
    "KODOU_MAX_BODY_BYTES": "20000",
    "KODOU_MAX_REPLY_BYTES": "20000",
    "KODOU_MAX_CONTENT_BYTES": "200000",
    "KODOU_MAX_ITEMS": "100",
    "KODOU_MAX_PARALLEL": "2",
}


@pytest.fixture(scope="module")
def bounded() -> Iterator[Server]:
    require("bubblewrap")
    with running("bubblewrap", **BOUNDS) as server:
        yield server


@pytest.fixture
def session(bounded: Server) -> Iterator[Session]:
    opened = bounded.session()
    yield opened
    opened.close()


def said(reply: Any) -> tuple[int, str, str | None]:
    told = reply.json()
    assert told["error"] is True
    return reply.status_code, told["code"], told.get("field")


def kept(session: Session) -> list[str]:
    reply = session.client.get("/session/references", headers={"X-Session-ID": session.id})
    return [each["$ref"] for each in reply.json()["value"]]


def test_too_many_references_are_refused_before_anything_runs(session: Session) -> None:
    first, second = (session.value("list", keep=True)["$ref"] for _ in range(2))
    reply = session.post("os.mkdir", "/tmp/made", keep=True)
    assert said(reply) == (422, "too_many_references", "keep")
    assert session.value("os.path.exists", "/tmp/made") is False
    assert session.value("list", keep=True, drop=[first])["$ref"] in kept(session)
    assert second in kept(session)


def test_what_is_too_large_is_not_kept(session: Session) -> None:
    reply = session.post("bytearray", 2_000_000, keep=True)
    assert said(reply) == (200, "reference_too_large", None)
    assert kept(session) == []


def test_too_many_items_and_too_large_a_reply_are_told(session: Session) -> None:
    assert said(session.post("itertools.count")) == (200, "too_many_items", None)
    assert said(session.post(["str", "zfill"], "x", 30_000)) == (200, "reply_too_large", None)


def test_content_has_a_bound_of_its_own(session: Session) -> None:
    for size, fits in ((100_000, True), (300_000, False)):
        body = json.dumps({"sessionid": session.id, "namepath": "bytes", "args": [size]})
        reply = session.client.post(CALL, content=body, headers={"Accept": "application/octet-stream"})
        if fits:
            assert reply.content == bytes(size)
        else:
            assert said(reply) == (200, "reply_too_large", None)


def form(session: Session, files: dict[str, bytes], text: str = "") -> Any:
    """A call of `len` with the first of the files."""
    call = {"sessionid": session.id, "namepath": "len", "args": [{"$file": next(iter(files))}], "kwargs": {}}
    parts = {"call": Part((json.dumps(call) + text).encode()), **{name: Part(data) for name, data in files.items()}}
    body, content_type = Part.encode(parts)
    return session.client.post(CALL, content=body, headers={"Content-Type": content_type})


def test_files_may_be_larger_than_bodies_and_have_a_bound_too(session: Session) -> None:
    assert form(session, {"f": bytes(150_000)}).json()["value"] == 150_000
    assert said(form(session, {"f": bytes(300_000)})) == (413, "payload_too_large", None)
    assert said(form(session, {"f": b""}, " " * 30_000)) == (413, "payload_too_large", None)
    assert said(form(session, {"f": b"", "g": b"", "h": b""})) == (422, "invalid_request", None)
    assert said(session.post("len", "x" * 30_000)) == (413, "payload_too_large", None)


def test_a_list_operation_is_spread_over_no_more_sandboxes_than_there_may_be(session: Session) -> None:
    body = {"session": session.id, "listop": {"op": "map", "function": "abs", "list": [-1, -2, -3], "parallel": 2}}
    assert session.client.post("/kompose", json=body).json()["value"] == [1, 2, 3]
    body["listop"]["parallel"] = 3  # type: ignore[index]
    assert said(session.client.post("/kompose", json=body)) == (422, "invalid_request", "listop.parallel")
    sessions = session.client.get("/session").json()["sessions"]
    assert sum(each["state"] not in ("closing", "closed") for each in sessions) == 1


def test_a_composition_that_fails_keeps_nothing(session: Session) -> None:
    body = {"session": session.id, "args": [[1]], "pipeline": ["list", "math.sqrt"], "keep": True}
    reply = session.client.post("/kompose", json=body).json()
    assert (reply["error"], reply["code"], reply["stage"]) == (True, "exception", 1)
    assert kept(session) == []
