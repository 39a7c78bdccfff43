"""The machine that a run was made on, in words."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path


def describe() -> dict[str, str]:
    memory_kb = next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    return {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{int(memory_kb) / 1e6:.0f} GB",
        "kernel": f"Linux {platform.release()}, cgroup v{2 if Path('/sys/fs/cgroup/cgroup.controllers').exists() else 1}",
        "Python of server and clients": platform.python_version(),
        "engine": _said("docker", "version", "--format", "Docker {{.Server.Version}}") or "none answers",
        "bubblewrap": _said("bwrap", "--version") or "none",
        "load before the run (1, 5, 15 min)": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
