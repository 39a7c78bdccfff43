"""Makes an environment out of local files: a virtual environment, the packages, their bytecode."""

import compileall
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import List, Optional, TextIO

from .uv import Uv, interpreter, pump

CACHE_NAME = ".uv-cache"
_ADDED = re.compile(r"\+ (?P<name>[A-Za-z0-9._-]+)==")
_TESTS = re.compile(r"/tests?/")  # more than half of numpy's or pandas' modules, and hardly ever imported


def run(uv: Uv, files: Path, env: Path, out: TextIO) -> int:
    """Install every file of `files` into a new environment at `env` (an empty directory, or none yet).

    Returns: 0, or 1 if something could not be installed.
    Prints:  JSON lines {"phase": "install" | "compile", "package": str | null, "line": str}.
    """
    # uv unpacks into its cache and links from there. The cache is this build's own, inside the environment so that
    # nothing is copied and nothing large goes to /tmp (which is memory), and it goes away with the last line here.
    cache = env / CACHE_NAME
    try:
        return _install(uv, sorted(files.iterdir()), env, cache, out)
    finally:
        shutil.rmtree(str(cache), ignore_errors=True)


def _install(uv: Uv, files: List[Path], env: Path, cache: Path, out: TextIO) -> int:
    venv = ["venv", "--allow-existing", "--relocatable", "--no-project", "--python", interpreter(), str(env)]
    if not _run(uv, venv, cache, out):
        return 1
    if files:
        install = ["pip", "install", "--no-deps", "--link-mode", "hardlink", "--python", str(env / "bin" / "python")]
        if not _run(uv, [*install, *(str(file) for file in files)], cache, out):
            return 1
        _compile(env, out)
    return 0


def _run(uv: Uv, arguments: List[str], cache: Path, out: TextIO) -> bool:
    with uv.running(arguments, cache=cache, merge_output=True) as process:
        if process.stdout is not None:
            for line in pump(process.stdout):
                added = _ADDED.match(line)
                _say(out, "install", added.group("name") if added else None, line)
    return process.returncode == 0


def _compile(env: Path, out: TextIO) -> None:
    """Compile the modules: the environment is read-only later, so nobody else could keep the bytecode.
    What does not compile (templates, code for other versions) stays as it is and fails where it is imported."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = env / "lib" / version / "site-packages"
    _say(out, "compile", None, f"Compiling bytecode on {os.cpu_count() or 1} processors")
    compileall.compile_dir(str(packages), quiet=2, workers=0, rx=_TESTS)


def _say(out: TextIO, phase: str, package: Optional[str], line: str) -> None:
    out.write(json.dumps({"phase": phase, "package": package, "line": line}) + "\n")
    out.flush()
