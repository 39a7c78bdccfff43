"""An interpreter that knows no packages becomes an environment's, and cannot be told from one that was started as such."""

import json
import subprocess
from pathlib import Path

import pytest
from runner import environment

from orchestrator.sandboxes.library import write_bare_interpreter
from tests.unit.runner.test_interpreters import FOUND

TELL = """
import json, site, sys, sysconfig
import planted
print(json.dumps({
    "sys": [sys.executable, sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, sys._base_executable],
    "path": sys.path, "flags": str(sys.flags), "meta": [str(each) for each in sys.meta_path],
    "site": [site.PREFIXES, site.ENABLE_USER_SITE, site.getsitepackages()], "paths": sysconfig.get_paths(),
    "builtins": sorted(dir(__builtins__)), "planted": planted.count,
}))
"""


@pytest.fixture(params=FOUND)
def interpreter(request: pytest.FixtureRequest) -> Path:
    return Path(FOUND[request.param]).resolve()


def told(*command: str | Path) -> object:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_cannot_be_told_from_the_environments_own(interpreter: Path, tmp_path: Path) -> None:
    env = tmp_path / "env"
    subprocess.run([interpreter, "-I", "-m", "venv", "--without-pip", env], check=True)
    (packages,) = env.glob("lib/python3*/site-packages")
    (packages / "planted.py").write_text("count = 0")
    (packages / "planted.pth").write_text("import planted; planted.count += 1\n")
    write_bare_interpreter(tmp_path, interpreter)
    bare = tmp_path / "python" / "bin" / "python"
    enter = Path(environment.__file__).read_text().partition('"""\n\n')[2]
    entered = told(bare, "-I", "-c", f"{enter}\nassert 'planted' not in sys.modules\nenter({str(env)!r})\n{TELL}")
    assert entered == told(env / "bin" / "python", "-I", "-c", TELL)
