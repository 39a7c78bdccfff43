import pytest

from orchestrator.environments.versions import exact, match
from orchestrator.errors import EngineUnavailable, UnknownVersion
from tests.unit.environments.fakes import interpreter

OFFERED = [interpreter(version) for version in ("3.12.4", "3.9.18", "3.11.10", "3.11.9", "3.14.0rc1")]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("3", "3.12.4"),
        ("3.11", "3.11.10"),  # by number, not by text
        ("3.11.9", "3.11.9"),
        ("3.9", "3.9.18"),
        ("3.14", "3.14.0rc1"),
        (None, "3.12.4"),
    ],
)
def test_the_newest_that_matches_is_taken(wanted: str | None, found: str) -> None:
    assert match(wanted, OFFERED, None).version == found


@pytest.mark.parametrize(
    "wanted",
    ["3.1", "3.12.40", "2", "4", "3.12.4.0", "3.x", "", "\uff13", "3.\u0663", " 3", "3\n", "03", "-3", "3.", "9" * 30],
)
def test_what_matches_nothing_is_told_what_there_is(wanted: str) -> None:
    with pytest.raises(UnknownVersion) as caught:
        match(wanted, OFFERED, None)
    assert caught.value.offered == ("3.12.4", "3.11.10", "3.11.9", "3.9.18", "3.14.0rc1")
    assert caught.value.field == "version"
    assert caught.value.detail.isascii()


@pytest.mark.parametrize(("default", "found"), [("3.11", "3.11.10"), ("3.8", "3.12.4"), (None, "3.12.4")])
def test_without_a_version_the_default_counts_if_it_is_on_offer(default: str | None, found: str) -> None:
    assert match(None, OFFERED, default).version == found


def test_with_nothing_on_offer_the_caller_may_come_again() -> None:
    with pytest.raises(EngineUnavailable):
        match("3", [], None)


def test_a_lock_means_one_version_and_no_newer_one() -> None:
    assert exact("3.11.9", OFFERED).version == "3.11.9"
    assert exact("3.14.0rc1", OFFERED).version == "3.14.0rc1"
    for wanted in ("3.11", "3.11.8", "3", "x\n", ""):
        with pytest.raises(UnknownVersion) as caught:
            exact(wanted, OFFERED)
        assert caught.value.field == "lock.python"
        assert caught.value.offered == ("3.12.4", "3.11.10", "3.11.9", "3.9.18", "3.14.0rc1")
    with pytest.raises(EngineUnavailable):
        exact("3.11.9", [])
