"""Makes an environment out of local files: a virtual environment, the packages, their bytecode."""

import compileall
import gc
import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Iterator, List, Optional, TextIO, Tuple

from .uv import Uv, interpreter, pump

CACHE_NAME = ".uv-cache"
NEW_NAME = ".new"
_ADDED = re.compile(r"\+ (?P<name>[A-Za-z0-9._-]+)==")
_TESTS = re.compile(r"/tests?/")  # more than half of numpy's or pandas' modules, and hardly ever imported
_VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
_MODULES_PER_PROCESS = 50  # at least: a process more is worth it only for so many


def run(uv: Uv, files: Path, env: Path, out: TextIO) -> int:
    """Install every file of `files` into `env`: a new environment (an empty directory, or none yet), or one that is there,
    which then holds them as well.

    Returns: 0, or 1 if something could not be installed.
    Prints:  JSON lines {"phase": "install" | "compile", "package": str | null, "line": str}.
    """
    # uv unpacks into its cache and links from there. The cache is this build's own, inside the environment so that
    # nothing is copied and nothing large goes to /tmp (which is memory), and it goes away with the last lines here.
    cache = env / CACHE_NAME
    # What is there already is never started: its `.pth` files would run. So the new is installed beside it.
    new = env / NEW_NAME if (env / "pyvenv.cfg").exists() else env
    try:
        if not _install(uv, sorted(files.iterdir()), new, cache, out):
            return 1
        if new != env:
            _move_into(new, env)
        return 0
    finally:
        for left in (cache, env / NEW_NAME):
            shutil.rmtree(str(left), ignore_errors=True)


def _install(uv: Uv, files: List[Path], env: Path, cache: Path, out: TextIO) -> bool:
    _make_venv(env)
    if files:
        install = ["pip", "install", "--no-deps", "--link-mode", "hardlink", "--python", str(env / "bin" / "python")]
        if not _run(uv, [*install, *(str(file) for file in files)], cache, out):
            return False
        _compile(env, out)
    return True


def _make_venv(env: Path) -> None:
    """A virtual environment as uv makes them, without scripts for shells. (uv would start the interpreter to ask what this
    process knows.)"""
    python = Path(interpreter())
    for directory in (env / "bin", env / "lib" / _VERSION / "site-packages"):
        directory.mkdir(parents=True)
    (env / "lib64").symlink_to("lib")
    (env / "bin" / "python").symlink_to(python)
    for name in ("python3", _VERSION):
        (env / "bin" / name).symlink_to("python")
    settings = {
        "home": str(python.parent),
        "implementation": "CPython",
        "version_info": platform.python_version(),
        "include-system-site-packages": "false",
        "relocatable": "true",  # scripts that uv writes find the interpreter beside them
    }
    (env / "pyvenv.cfg").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))


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
    modules = list(_modules(env / "lib" / _VERSION / "site-packages"))
    processes = max(1, min(os.cpu_count() or 1, len(modules) // _MODULES_PER_PROCESS))
    _say(out, "compile", None, f"Compiling {len(modules)} modules in {processes} processes")
    # (compileall's own way to do so imports more than a small package takes to compile.)
    children = {}
    for number in range(1, processes):
        share = modules[number::processes]
        child = os.fork()
        if not child:
            try:
                _compile_all(share)
                os._exit(0)
            finally:
                os._exit(1)
        children[child] = share
    _compile_all(modules[::processes])
    for child, share in children.items():
        if os.waitpid(child, 0)[1] != 0:
            _compile_all(share)  # what it has done is left as it is


def _modules(packages: Path) -> Iterator[str]:
    for parent, _, names in os.walk(str(packages)):
        for name in names:
            path = f"{parent}/{name}"
            if name.endswith(".py") and not _TESTS.search(path):
                yield path


def _compile_all(modules: List[str]) -> None:
    gc.disable()  # syntax trees hold no cycles
    for path in modules:
        compileall.compile_file(path, quiet=2)


def _move_into(source: Path, target: Path) -> None:
    """Move what is in one directory into another, and what has a name of both in place of what was there."""
    for entry in _entries(source):
        there = target / entry.name
        if entry.is_dir(follow_symlinks=False) and there.is_dir() and not there.is_symlink():
            _move_into(source / entry.name, there)
        else:
            if there.is_dir() and not there.is_symlink():
                shutil.rmtree(str(there))
            (source / entry.name).replace(there)


def _entries(directory: Path) -> "Tuple[os.DirEntry[str], ...]":
    with os.scandir(str(directory)) as entries:
        return tuple(entries)


def _say(out: TextIO, phase: str, package: Optional[str], line: str) -> None:
    out.write(json.dumps({"phase": phase, "package": package, "line": line}) + "\n")
    out.flush()
