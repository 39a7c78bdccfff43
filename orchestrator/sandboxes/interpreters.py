"""Interpreters of this host: which there may be, and what one says of itself."""

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from packaging.version import InvalidVersion, Version

from orchestrator.errors import Defect
from orchestrator.sandboxes.backend import Interpreter

DIRECTORIES = (Path("/usr/bin"), Path("/usr/local/bin"))
LEAST_MINOR = 8  # of Python 3: what runner and builder run on
_NAME = re.compile(r"python3\.([0-9]{1,3})")


def candidates(named: Sequence[Path]) -> list[Path]:
    """Executables to look at, each once, links resolved: those named, or else what lies where interpreters usually lie,
    and the one that runs this. Blocks."""
    found = list(named) or [*_usual(), _own()]
    return list(dict.fromkeys(path.resolve() for path in found))


def described(line: bytes, *, base: str, digest: str, base_digest: str, runner: str) -> Interpreter:
    """The interpreter that printed `line`, the builder's probe. Raises `Defect`: it did not say what it is."""
    try:
        facts = json.loads(line)
        version, markers, platform = facts["version"], facts["markers"], facts["platform"]
        Version(version)
        if not all(isinstance(text, str) for text in (platform, *markers, *markers.values())):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, InvalidVersion) as exc:
        msg = f"the Python of {base} did not say what it is"
        raise Defect(msg) from exc
    return Interpreter("python", version, base, digest, platform, markers, base_digest, runner)


def _usual() -> list[Path]:
    found = []
    for directory in DIRECTORIES:
        for path in sorted(directory.glob("python3.*")):
            match = _NAME.fullmatch(path.name)
            if match is not None and int(match[1]) >= LEAST_MINOR and os.access(path, os.X_OK):
                found.append(path)
    return found


def _own() -> Path:
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
