"""Virtual environments for peers: made once from their pinned versions, kept under the cache directory."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
INSTALL_TIMEOUT_S = 600


def uv() -> str:
    return str(Path(sys.executable).parent / "uv")


def cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kodou" / "peers"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if need be. Raises RuntimeError: it cannot be installed."""
    pins = HERE / f"{peer}.txt"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    venv = cache_dir() / f"{peer}-{version}-{digest}"
    python = venv / "bin" / "python"
    if not (venv / "whole").exists():
        shutil.rmtree(venv, ignore_errors=True)
        _run(uv(), "venv", "--quiet", "--python", sys.executable, str(venv))
        _run(uv(), "pip", "sync", "--quiet", "--compile-bytecode", "--python", str(python), str(pins))
        (venv / "whole").touch()
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    if done.returncode:
        msg = f"cannot be installed: {done.stderr.strip()[-500:]}"
        raise RuntimeError(msg)
