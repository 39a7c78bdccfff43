"""The runner's and builder's sources: what they are, and a copy of them that sandboxes may read."""

import hashlib
import os
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import runner

PACKAGES = ("runner", "builder")
_DIGEST_DIGITS = 12


def sources() -> dict[str, bytes]:
    """Path below the library's directory ("runner/boot.py") -> content. Blocks."""
    return dict(sorted(item for package in PACKAGES for item in _python_files(files(package), package)))


def sources_digest() -> str:
    """SHA-256 (hex) of all of them. Blocks."""
    digest = hashlib.sha256()
    for path, content in sources().items():
        digest.update(f"{path}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


def runner_version(digest: str) -> str:
    """Which runner sandboxes get: its version, and the begin of the digest of all sources."""
    return f"{runner.__version__}+{digest[:_DIGEST_DIGITS]}"


def write_library(directory: Path) -> None:
    """Write them all into a new directory that everybody may read. Blocks. Raises `OSError`."""
    directory.mkdir()
    for path, content in sources().items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    for path, _, others in os.walk(directory):
        Path(path).chmod(0o755)  # whatever the umask is
        for name in others:
            (Path(path) / name).chmod(0o644)


def write_bare_interpreter(directory: Path, interpreter: Path) -> None:
    """Make `<directory>/python/bin/python`: the interpreter, in a virtual environment without packages. Nothing runs as it
    starts but itself. Blocks. Raises `OSError`."""
    home = directory / "python"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(interpreter)
    (home / "pyvenv.cfg").write_text(f"home = {interpreter.parent}\ninclude-system-site-packages = false\n")
    for path, mode in ((home, 0o755), (home / "bin", 0o755), (home / "pyvenv.cfg", 0o644)):
        path.chmod(mode)  # whatever the umask is


def _python_files(directory: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in directory.iterdir():
        path = f"{prefix}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _python_files(entry, path)
        elif entry.name.endswith(".py"):
            yield path, entry.read_bytes()
