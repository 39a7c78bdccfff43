"""`uv` into a new virtual environment, wheels in its cache, and an interpreter of it: unsandboxed."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import measures
from benchmarks.peers.venvs import uv
from benchmarks.servers import ENVIRONMENT
from benchmarks.subjects.interface import PROGRAM, checked, timed
from orchestrator.settings import Settings


class Uv:
    name = measures.UV

    def __init__(self, packages: list[str]) -> None:
        self._packages = packages

    def __enter__(self) -> "Uv":
        self._directory = TemporaryDirectory(prefix="kodou-bench-")
        self._environment = ENVIRONMENT | {
            "UV_CACHE_DIR": str(Path(self._directory.name) / "cache"),
            "UV_DEFAULT_INDEX": Settings().index_url,
        }
        for package in self._packages:
            self.new(package)  # fills the cache
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def new(self, another: str) -> float:
        with TemporaryDirectory(dir=self._directory.name) as venv:
            return timed(lambda: self._answered(venv, another))

    def _answered(self, venv: str, another: str) -> None:
        python = str(Path(venv) / "bin" / "python")
        self._run(uv(), "venv", "--quiet", "--allow-existing", "--python", sys.executable, venv)
        self._run(uv(), "pip", "install", "--quiet", "--python", python, "numpy", another)
        checked(int(self._run(python, "-c", PROGRAM)))

    def _run(self, *command: str) -> bytes:
        return subprocess.run(command, env=self._environment, check=True, stdout=subprocess.PIPE).stdout
