"""Resolves requirements that need source builds: build backends run here, inside the sandbox, and nowhere else."""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Optional

from .uv import Uv, interpreter


def run(uv: Uv, requirements: Path, exclude_newer: Optional[str]) -> int:
    """Write the lock (pylock.toml) to stdout, uv's log to stderr. Returns uv's exit code."""
    arguments = ["pip", "compile", str(requirements), "--format", "pylock.toml", "--python", interpreter()]
    arguments += ["--no-header", "--no-annotate"]
    if exclude_newer is not None:
        arguments += ["--exclude-newer", exclude_newer]
    with tempfile.TemporaryDirectory(prefix="uv-") as cache:
        with uv.running(arguments, cache=Path(cache), merge_output=False) as process:
            if process.stdout is not None:
                shutil.copyfileobj(process.stdout, sys.stdout)
        sys.stdout.flush()
    return process.returncode
