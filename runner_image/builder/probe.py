"""What this interpreter is: its version, its PEP 508 environment, and the platform whose wheels run on it."""

import json
import os
import platform
import sys
from typing import Dict, Optional, TextIO

# The minor versions of glibc that `uv --python-platform` has a manylinux platform for (uv 0.9 and later).
KNOWN_GLIBC_MINORS = (17, 28, *range(31, 41))
MACHINES = frozenset({"x86_64", "aarch64"})


def run(out: TextIO) -> int:
    """Print one line of JSON: {"version", "markers", "platform"}. An interpreter that cannot serve: exit code 1."""
    machine = platform.machine()
    found = manylinux(machine, _glibc())
    if sys.version_info < (3, 8) or found is None:
        sys.stderr.write(
            f"Python {platform.python_version()} on {machine} cannot serve: "
            "Python 3.8 or newer with glibc 2.17 or newer on x86_64 or aarch64 is needed\n"
        )
        return 1
    out.write(json.dumps({"version": platform.python_version(), "markers": markers(), "platform": found}) + "\n")
    return 0


def manylinux(machine: str, glibc: Optional[str]) -> Optional[str]:
    """The newest platform known to uv that a machine with this glibc ("2.36") can run; None if there is none."""
    if machine not in MACHINES or glibc is None:
        return None
    major, _, minor = glibc.partition(".")
    if major != "2" or not minor.isdigit():
        return None
    usable = [known for known in KNOWN_GLIBC_MINORS if known <= int(minor)]
    return f"{machine}-manylinux_2_{usable[-1]}" if usable else None


def markers() -> Dict[str, str]:
    """The environment that PEP 508 markers are evaluated in."""
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": _implementation_version(),
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    }


def _implementation_version() -> str:
    info = sys.implementation.version
    suffix = "" if info.releaselevel == "final" else f"{info.releaselevel[0]}{info.serial}"
    return f"{info.major}.{info.minor}.{info.micro}{suffix}"


def _glibc() -> Optional[str]:
    try:
        value = os.confstr("CS_GNU_LIBC_VERSION")  # "glibc 2.36"; unknown to other C libraries
    except (ValueError, OSError):
        return None
    return value.split()[-1] if value else None
