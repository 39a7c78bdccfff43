"""An environment out of local files, made by the builder as its own process, as in a sandbox."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import builder
import pytest

from orchestrator.packages.uv import uv_binary

BOOT = Path(builder.__file__).parent / "boot.py"


def wheel(directory: Path, name: str, files: dict[str, str]) -> Path:
    path = directory / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{name}-command = {name}:main\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def install(files: Path, env: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", BOOT, "install", "--uv", uv_binary(), "--files", files, "--env", env]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def events(done: "subprocess.CompletedProcess[str]") -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    path = tmp_path / "files"
    path.mkdir()
    return path


def test_an_empty_set_is_a_bare_environment(files: Path, tmp_path: Path) -> None:
    done = install(files, tmp_path / "env")
    assert done.returncode == 0, done.stdout + done.stderr
    code = "import sys; print(sys.prefix != sys.base_prefix)"
    printed = subprocess.run(
        [tmp_path / "env/bin/python", "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "True\n"


def test_all_files_are_installed_compiled_and_told(files: Path, tmp_path: Path) -> None:
    wheel(files, "alpha", {"alpha/__init__.py": "def main(): print('alpha runs')\n", "alpha/broken.py": "def (\n"})
    wheel(files, "beta", {"beta.py": "import alpha\n"})
    done = install(files, tmp_path / "env")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {event["package"] for event in events(done)} == {None, "alpha", "beta"}
    assert [event["phase"] for event in events(done)][-1] == "compile"
    packages = next((tmp_path / "env/lib").glob("python*")) / "site-packages"
    assert list((packages / "alpha/__pycache__").glob("__init__.*.pyc"))
    run = subprocess.run([tmp_path / "env/bin/python", "-I", "-c", "import beta"], check=False)
    assert run.returncode == 0


def test_no_file_has_another_name_elsewhere_and_no_cache_stays(files: Path, tmp_path: Path) -> None:
    # A shared cache, linked from, would let what one environment writes show in another (uv links by default).
    wheel(files, "alpha", {"alpha.py": "x = 1\n"})
    assert install(files, tmp_path / "env").returncode == 0
    for parent, _, names in os.walk(tmp_path / "env"):
        assert ".uv-cache" not in Path(parent).parts
        assert {(Path(parent) / name).lstat().st_nlink for name in names} <= {1}


def test_scripts_work_wherever_the_environment_is_moved(files: Path, tmp_path: Path) -> None:
    wheel(files, "alpha", {"alpha.py": "def main(): print('alpha runs')\n"})
    assert install(files, tmp_path / "env").returncode == 0
    (tmp_path / "env").rename(tmp_path / "moved")
    printed = subprocess.run([tmp_path / "moved/bin/alpha-command"], capture_output=True, text=True, check=True)
    assert printed.stdout == "alpha runs\n"


def test_what_is_there_is_kept_and_not_started(files: Path, tmp_path: Path) -> None:
    env = tmp_path / "env"
    wheel(files, "alpha", {"alpha/__init__.py": "x = 1\n", "shared/a.py": "", "alpha.pth": "import alpha_started\n"})
    wheel(files, "started", {"alpha_started.py": f"open({str(tmp_path / 'ran')!r}, 'w')\n"})
    assert install(files, env).returncode == 0
    packages = next((env / "lib").glob("python*")) / "site-packages"
    before = (packages / "alpha/__init__.py").stat().st_ino
    for path in files.iterdir():
        path.unlink()
    wheel(files, "beta", {"beta.py": "import alpha\n", "shared/b.py": ""})
    done = install(files, env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {event["package"] for event in events(done)} == {None, "beta"}
    assert sorted(path.name for path in (packages / "shared").glob("*.py")) == ["a.py", "b.py"]
    assert (packages / "alpha/__init__.py").stat().st_ino == before
    assert not (tmp_path / "ran").exists()
    assert {"alpha-command", "beta-command"} <= {path.name for path in (env / "bin").iterdir()}
    assert {path.name for path in env.iterdir()} <= {"bin", "lib", "lib64", "pyvenv.cfg", ".lock"}
    run = subprocess.run([env / "bin/python", "-I", "-c", "import beta"], check=False)
    assert run.returncode == 0
    assert (tmp_path / "ran").exists()  # it would have been seen


def test_what_cannot_be_installed_ends_with_1_and_says_why(files: Path, tmp_path: Path) -> None:
    (files / "broken-1.0-py3-none-any.whl").write_bytes(b"no zip file")
    done = install(files, tmp_path / "env")
    assert done.returncode == 1
    assert any("broken" in str(event["line"]) for event in events(done))


def test_nothing_but_the_given_files_is_installed(files: Path, tmp_path: Path) -> None:
    path = wheel(files, "alpha", {"alpha.py": ""})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["alpha-1.0.dist-info/METADATA"] += b"Requires-Dist: numpy\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert install(files, tmp_path / "env").returncode == 0
    assert not list((tmp_path / "env").rglob("numpy*"))


def test_the_package_is_loaded_under_a_private_name(tmp_path: Path) -> None:
    code = f"import runpy, sys; sys.argv = ['boot', 'probe']; runpy.run_path({str(BOOT)!r}, run_name='__main__')"
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            f"import atexit\natexit.register(lambda: print('builder' in sys.modules))\n{code}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_unknown_options_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-I", BOOT, "install", "--env", "x", "--fil", "y"], capture_output=True, check=False
    )
    assert done.returncode == 2
