"""The documents say what is there: each setting, route and code, and nothing that is not."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner import frames

from orchestrator.api.problems import KINDS
from orchestrator.errors import KodouError
from orchestrator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def errors(root: type[KodouError] = KodouError) -> Iterator[type[KodouError]]:
    for child in root.__subclasses__():
        yield child
        yield from errors(child)


def test_settings_document_is_up_to_date() -> None:
    made = subprocess.run([sys.executable, ROOT / "scripts" / "settings-doc", "--check"], cwd=ROOT, check=False)
    assert made.returncode == 0, "run scripts/settings-doc"


# Not these: "refused" is abstract, and "unsafe_key" keeps the server from starting, so no client ever sees it.
UNSEEN = {"refused", "unsafe_key"}
_ROW = re.compile(r"^\| (?P<status>[0-9]{3}|) *\|? *(?P<codes>`[a-z_]+`(?:, `[a-z_]+`)*) \|", re.MULTILINE)


def documented() -> set[tuple[int, str]]:
    """Status and code of each row in the tables of docs/protocol.md; 200 where a table has no statuses."""
    text = (ROOT / "docs" / "protocol.md").read_text().partition("## Errors")[2].partition("\n## ")[0]
    return {
        (int(row["status"] or 200), code)
        for row in _ROW.finditer(text)
        for code in re.findall(r"`([a-z_]+)`", row["codes"])
    }


def test_every_code_is_explained_with_its_status_and_no_other() -> None:
    refusals = {(KINDS[error].status, error.code) for error in KINDS if error.code not in UNSEEN}
    outcomes = {(200, code) for code in {"exception", "timeout", "worker_died"} | frames.NO_VALUE}
    assert documented() == refusals | outcomes


def test_every_error_has_its_kind_and_every_refusal_of_the_runner_its_error() -> None:
    codes = {error.code for error in errors()} - UNSEEN
    assert codes == {error.code for error in KINDS} - UNSEEN
    assert codes >= frames.REFUSALS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_settings_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert "://" in target or (document.parent / target).exists(), target
    known = {f"KODOU_{name.upper()}" for name in Settings.model_fields}
    known |= {"KODOU_URL", "KODOU_TOKEN", "KODOU_SESSION", "KODOU_CACHE_DIR", "KODOU_TEST_ENGINES"}
    assert set(re.findall(r"\bKODOU_[A-Z_]+[A-Z]", text)) <= known
