"""The documents say what is there: each setting, route and code, and nothing that is not."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import Defect, KodouError
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


@pytest.mark.parametrize("code", sorted({error.code for error in errors() if error is not Defect} - UNSEEN))
def test_every_code_is_explained(code: str) -> None:
    assert f"`{code}`" in (ROOT / "docs" / "api.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_settings_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert "://" in target or (document.parent / target).exists(), target
    known = {f"KODOU_{name.upper()}" for name in Settings.model_fields}
    known |= {"KODOU_URL", "KODOU_TOKEN", "KODOU_SESSION", "KODOU_CACHE_DIR", "KODOU_TEST_ENGINES"}
    assert set(re.findall(r"\bKODOU_[A-Z_]+[A-Z]", text)) <= known
