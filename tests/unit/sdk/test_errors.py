"""The SDK has a class for every code that the server can send."""

import pytest
from kodou.errors import BY_CODE, KodouError, error_class

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
