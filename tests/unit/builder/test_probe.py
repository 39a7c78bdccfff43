"""What an interpreter says of itself."""

import io
import json
import sys

import pytest
from builder import probe


@pytest.mark.parametrize(
    ("machine", "glibc", "platform"),
    [
        ("x86_64", "2.36", "x86_64-manylinux_2_36"),
        ("aarch64", "2.36", "aarch64-manylinux_2_36"),
        ("x86_64", "2.17", "x86_64-manylinux_2_17"),
        ("x86_64", "2.27", "x86_64-manylinux_2_17"),
        ("x86_64", "2.30", "x86_64-manylinux_2_28"),
        ("x86_64", "2.99", "x86_64-manylinux_2_40"),
        ("x86_64", "2.16", None),
        ("x86_64", "3.0", None),
        ("x86_64", None, None),
        ("riscv64", "2.36", None),
    ],
)
def test_the_platform_is_the_newest_that_uv_knows_and_the_machine_runs(
    machine: str, glibc: str | None, platform: str | None
) -> None:
    assert probe.manylinux(machine, glibc) == platform


def test_one_line_of_json_describes_this_interpreter() -> None:
    out = io.StringIO()
    assert probe.run(out) == 0
    assert out.getvalue().count("\n") == 1
    facts = json.loads(out.getvalue())
    assert facts["version"] == facts["markers"]["python_full_version"]
    assert facts["markers"]["python_version"] == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_the_markers_are_those_of_packaging() -> None:
    from packaging.markers import default_environment

    assert probe.markers() == dict(default_environment())


def test_an_interpreter_that_cannot_serve_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "_glibc", lambda: None)
    out = io.StringIO()
    assert probe.run(out) == 1
    assert out.getvalue() == ""
    assert "glibc" in capsys.readouterr().err
