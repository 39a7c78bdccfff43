"""The command line as a whole: quick to start, clear about what is wrong."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import __version__
from orchestrator.errors import StoreBusy

Kodou = Callable[..., Any]
HEAVY = {"alembic", "docker", "fastapi", "httpx", "pydantic", "rich", "sqlalchemy", "structlog", "uvicorn"}
OF_THE_CLIENT = {"httpx", "pydantic", "rich"}  # httpx brings rich, typer pydantic


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`."""
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('|'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split("|"))


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("from orchestrator.cli import main; main(['--help'])")
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()


def test_a_call_does_not_load_the_server() -> None:
    loaded = loaded_by("from orchestrator.cli import main; main(['call', 'f', '--session', 's', '--url', 'ftp://x'])")
    assert "kodou.client" in loaded
    assert {name.partition(".")[0] for name in loaded} & (HEAVY - OF_THE_CLIENT) == set()
    assert {name for name in loaded if name.startswith("orchestrator.")} <= {
        "orchestrator.errors",
        *(name for name in loaded if name.startswith("orchestrator.cli")),
    }


def test_the_server_starts_without_protocol_buffers() -> None:
    assert {name for name in loaded_by("import orchestrator.server") if name.startswith("google.protobuf")} == set()


def test_version(kodou: Kodou) -> None:
    assert kodou("--version").out == f"{__version__}\n"


def test_no_command_shows_help(kodou: Kodou) -> None:
    assert "serve" in kodou().out + kodou("--help").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("serve", "--port", "70000"), "--port: "),
        (("serve", "--backend", "podman"), "--backend: "),
        (("serve", "--backend", "process"), "KODOU_ALLOW_PROCESS_BACKEND"),
        (("serve", "--host", "0.0.0.0"), "KODOU_ALLOW_REMOTE"),
    ],
)
def test_serve_refuses_bad_and_unsafe_settings_in_one_line(kodou: Kodou, arguments: tuple[str, ...], told: str) -> None:
    done = kodou(*arguments)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(r"kodou: [^\n]+\n", done.err)
    assert told in done.err


def test_serve_refuses_a_bad_variable_in_one_line(kodou: Kodou, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KODOU_MAX_SESSIONS", "many")
    done = kodou("serve")
    assert done.code == 2
    assert re.fullmatch(r"kodou: KODOU_MAX_SESSIONS: [^\n]+\n", done.err)


def test_an_error_of_ours_is_one_line_without_control_characters(kodou: Kodou, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(settings: object) -> None:
        msg = "the store is\nlocked \x1b[31m"
        raise StoreBusy(msg)

    monkeypatch.setattr("orchestrator.store.sql.open_store", busy)
    done = kodou("keys", "list")
    assert (done.code, done.err) == (1, "kodou: the store is locked \N{REPLACEMENT CHARACTER}[31m\n")


def test_an_error_of_the_system_is_one_line(kodou: Kodou, own_data_dir: Path) -> None:
    own_data_dir.mkdir()
    (own_data_dir / "keys").touch()
    done = kodou("keys", "list")
    assert done.code == 1
    assert re.fullmatch(r"kodou: .*/keys: File exists\n", done.err)
