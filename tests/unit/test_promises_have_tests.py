"""SECURITY.md promises nothing that no test holds."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "SECURITY.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| promise |", "| --- |"))
]


def is_held(name: str) -> bool:
    """A test, or a module of tests, is called so."""
    defined = re.compile(rf"^(async )?def {name}\(", re.MULTILINE)
    return any(path.stem == name or defined.search(text) for path, text in TESTS.items())


def test_the_tables_are_found() -> None:
    assert len(ROWS) >= 14


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_promise_names_tests_that_there_are(row: list[str]) -> None:
    names = re.findall(r"`(test_\w+)`", row[-1])
    assert names
    assert [name for name in names if not is_held(name)] == []
