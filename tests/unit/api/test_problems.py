import json
from collections.abc import Iterator

import pytest

from orchestrator import errors
from orchestrator.api import problems
from orchestrator.errors import KodouError

OURS = {"orchestrator.errors", "orchestrator.api.problems"}


def descendants(cls: type[KodouError]) -> Iterator[type[KodouError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from descendants(child)


def test_every_error_of_the_tree_has_a_status_of_its_own() -> None:
    assert {cls for cls in descendants(KodouError) if cls.__module__ in OURS} <= problems.KINDS.keys()


def test_the_table_holds_nothing_but_the_tree() -> None:
    assert problems.KINDS.keys() <= set(descendants(KodouError))


def test_one_code_never_means_two_statuses_except_malformed_json() -> None:
    statuses: dict[str, set[int]] = {}
    for cls, kind in problems.KINDS.items():
        statuses.setdefault(cls.code, set()).add(kind.status)
    assert statuses.pop("invalid_request") == {400, 422}
    assert statuses.pop("internal") == {500}
    assert all(len(found) == 1 for found in statuses.values())


@pytest.mark.parametrize(
    ("error", "status", "code", "more"),
    [
        (errors.InvalidRequest("x", field="args"), 422, "invalid_request", {"field": "args"}),
        (problems.MalformedRequest("x"), 400, "invalid_request", {}),
        (errors.UnknownVersion("x", offered=["3.12.4"]), 422, "unknown_version", {"offered": ["3.12.4"]}),
        (errors.Forbidden("x"), 403, "forbidden", {}),
        (errors.NotFound("x"), 404, "not_found", {}),
        (errors.SessionNotFound("x"), 404, "session_not_found", {}),
        (errors.SessionExpired("x"), 410, "session_expired", {}),
        (errors.DependencyUnresolvable("x"), 422, "dependency_unresolvable", {}),
        (errors.BuildFailed("x", log_tail="gcc: no"), 422, "build_failed", {"log": "gcc: no"}),
        (errors.PayloadTooLarge("x", limit_bytes=7), 413, "payload_too_large", {"limit_bytes": 7}),
        (problems.UnsupportedMediaType("x"), 415, "unsupported_media_type", {}),
        (problems.NotAcceptable("x", available=["a/b"]), 406, "not_acceptable", {"available": ["a/b"]}),
        (problems.SandboxReplaced("x"), 503, "sandbox_lost", {"restarted": True}),
    ],
)
def test_the_document_has_the_members_that_clients_rely_on(
    error: KodouError, status: int, code: str, more: dict[str, object]
) -> None:
    got, headers, body = problems.render(error, "r-1")
    document = json.loads(body)
    assert got == status
    assert dict(headers)[b"content-type"] == b"application/problem+json"
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
    assert (
        document.items()
        >= {
            "type": f"urn:kodou:problem:{code}",
            "status": status,
            "detail": "x",
            "error": True,
            "code": code,
            "request_id": "r-1",
            **more,
        }.items()
    )
    assert document["title"]


def test_a_defect_tells_its_title_and_request_id_only() -> None:
    _, _, body = problems.render(errors.InvalidTransition("/var/lib/kodou/keys: secret"), "r-1")
    assert json.loads(body).keys() == {"type", "title", "status", "error", "code", "request_id"}
    assert b"secret" not in body


def test_an_error_class_nobody_listed_is_of_its_parents_kind() -> None:
    class Newer(errors.StoreBusy):
        pass

    status, headers, _ = problems.render(Newer("x", after_s=2.1), "r-1")
    assert status == 503
    assert dict(headers)[b"retry-after"] == b"3"


@pytest.mark.parametrize("after_s", [0.0, 0.2, 1.0])
def test_retry_after_is_never_zero(after_s: float) -> None:
    _, headers, _ = problems.render(errors.RateLimited("x", after_s=after_s), "r-1")
    assert dict(headers)[b"retry-after"] == b"1"


def test_unauthorized_names_the_scheme() -> None:
    _, headers, _ = problems.render(errors.Unauthorized("x"), "r-1")
    assert dict(headers)[b"www-authenticate"].startswith(b"Bearer")


def test_a_text_with_half_a_surrogate_pair_is_still_a_reply() -> None:
    _, _, body = problems.render(errors.InvalidRequest("bad \ud800 name"), "r-1")
    assert json.loads(body.decode("utf-8"))["detail"] == "bad ? name"
