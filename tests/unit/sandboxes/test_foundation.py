"""Which environment another is built upon, and what is left to install then."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sandboxes.backend import BuildOrder, Image, Interpreter
from orchestrator.sandboxes.foundation import COUNT, FILES, HEIGHT, MAX_HEIGHT, found, missing, sharing

INTERPRETER = Interpreter("python", "3.12.4", "base", "d" * 64, "x86_64-manylinux_2_36", {})
SIZES = {"a": 1, "b": 10, "c": 100, "d": 1000}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheels")
    for name, size in SIZES.items():
        (directory / f"{name}.whl").write_bytes(bytes(size))
    return directory


def order(store: Path, names: str, *, from_source: bool = False) -> BuildOrder:
    paths = [store / f"{name}.whl" for name in names]
    return BuildOrder(
        f"py-{names}", INTERPRETER, paths, from_source, {}, 60, 1000, hashes=[name * 64 for name in names]
    )


def image(order: BuildOrder, **labels: str) -> Image:
    return Image(order.environment_id, "ref", 0, datetime.now(UTC), {**sharing(order, None, count=5), **labels})


def test_the_one_that_leaves_least_to_install(store: Path) -> None:
    images = [image(order(store, names)) for names in ("", "a", "ab", "c", "abcd", "bd")]
    foundation = found(order(store, "abc"), images)
    assert foundation is not None
    assert foundation.image.environment_id == "py-c"
    assert [path.name for path in missing(order(store, "abc"), foundation)] == ["a.whl", "b.whl"]


@given(st.frozensets(st.sampled_from("abcd")), st.lists(st.frozensets(st.sampled_from("abcd"))))
def test_nothing_that_was_not_asked_for_is_ever_in_it(wanted: frozenset[str], there: list[frozenset[str]]) -> None:
    here = Path(__file__)
    asked = BuildOrder("new", INTERPRETER, [here] * len(wanted), False, {}, 60, 1000, hashes=sorted(wanted))
    images = [
        image(replace(asked, environment_id=f"{number}", files=[here] * len(each), hashes=sorted(each)))
        for number, each in enumerate(there)
    ]
    foundation = found(asked, images)
    assert (foundation is not None) == any(each <= wanted for each in there)
    if foundation is not None:
        assert foundation.files <= wanted
        assert len(missing(asked, foundation)) == len(wanted - foundation.files)


def test_what_was_built_from_source_is_no_ground_and_has_none(store: Path) -> None:
    ground = image(order(store, "a"))
    assert sharing(order(store, "a", from_source=True), None, count=5) == {}
    assert found(order(store, "ab", from_source=True), [ground]) is None
    assert found(order(store, "ab"), [Image("old", "ref", 0, datetime.now(UTC), {})]) is None


def test_of_another_interpreter_it_is_none(store: Path) -> None:
    other = replace(order(store, "a"), interpreter=replace(INTERPRETER, digest="e" * 64))
    assert found(order(store, "ab"), [image(other)]) is None


def test_labels_that_make_no_sense_are_no_ground(store: Path) -> None:
    for label in (COUNT, HEIGHT):
        assert found(order(store, "ab"), [image(order(store, "a"), **{label: "many"})]) is None


def test_one_upon_another_up_to_a_height(store: Path) -> None:
    ground = found(order(store, "ab"), [image(order(store, "a"))])
    labels = sharing(order(store, "ab"), ground, count=9)
    assert (labels[FILES], labels[HEIGHT], labels[COUNT]) == ("a" * 64 + " " + "b" * 64, "2", "9")
    assert found(order(store, "ab"), [image(order(store, "a"), **{HEIGHT: str(MAX_HEIGHT)})]) is None


def test_an_order_that_names_no_hashes_shares_nothing(store: Path) -> None:
    plain = replace(order(store, "ab"), hashes=())
    assert found(plain, [image(order(store, "a"))]) is None
    assert sharing(plain, None, count=1) == {}
    assert missing(plain, None) == plain.files
