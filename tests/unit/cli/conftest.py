"""`kodou` run in this process, as the console script runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.cli import main
from tests.unit.cli.engine import Backend


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.out.splitlines()[-1]


Kodou = Callable[..., Run]


@pytest.fixture(autouse=True)
def own_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No test sees a data directory, server or token of the machine's."""
    for name in ("KODOU_URL", "KODOU_TOKEN", "KODOU_SESSION", "KODOU_BACKEND", "KODOU_HOST", "KODOU_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KODOU_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def kodou(capsys: pytest.CaptureFixture[str]) -> Kodou:
    def run(*arguments: str) -> Run:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        return Run(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Stands for whatever backend a command selects."""
    made = Backend()
    monkeypatch.setattr("orchestrator.driver.selection.select_backend", made.select)
    return made
