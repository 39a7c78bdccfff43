"""The SDK has a class for every code that the server can send."""

import pytest
from kodou import errors as ours
from kodou.errors import BY_CODE, KodouError, error_class
from kodou.protocol import failure

from orchestrator import errors
from orchestrator.api import problems


def server_codes() -> set[str]:
    """Every code that a class of the server's stands for, but those of classes that are never raised themselves."""
    found: set[str] = set()
    for module in (errors, problems):
        for item in vars(module).values():
            if isinstance(item, type) and issubclass(item, errors.KodouError):
                found.add(item.code)
    return found


def test_every_code_of_the_server_has_a_class() -> None:
    assert server_codes() - set(BY_CODE) == set()


def test_every_code_of_a_call_without_a_value_has_a_class() -> None:
    for code in ("exception", "timeout", "worker_died", "value_not_serializable", "reply_too_large"):
        assert error_class(code, 200).code == code


def test_no_two_classes_share_a_code() -> None:
    def count(root: type[KodouError]) -> int:
        return 1 + sum(count(child) for child in root.__subclasses__())

    assert count(KodouError) == len(BY_CODE)


@pytest.mark.parametrize(
    ("status", "name"), [(200, "CallFailed"), (404, "Refused"), (503, "Unavailable"), (500, "ServerDefect")]
)
def test_a_code_to_come_has_the_nearest_class(status: int, name: str) -> None:
    assert error_class("to_come", status).__name__ == name


def test_help_lists_every_class() -> None:
    listed = ours.__doc__ or ""
    assert [kind.__name__ for kind in BY_CODE.values() if kind.__name__ not in listed] == []


def test_an_error_may_be_raised_again() -> None:
    members = {"exception": {"type": "ValueError", "message": "no", "traceback": "where it was"}}
    first = ours.RemoteError("ValueError: no", members=members, status=200, request_id="r")
    second = first.again()
    assert (type(second), str(second), vars(second)) == (type(first), str(first), vars(first))
    assert str(second.__cause__) == str(first.__cause__)


def test_what_raised_in_a_pipe_says_where() -> None:
    members = {"exception": {"type": "E", "message": "no"}, "pipe": 1, "stage": 0, "item": 2}
    assert str(failure(members, 200, None)) == "E: no (pipe 1, stage 0, item 2)"
    assert str(failure({**members, "pipe": None, "stage": "x", "item": True}, 200, None)) == "E: no"
