"""Processes of a sandbox, as this host sees them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Marked:
    """Processes of a sandbox that this host can tell from all others, by a word in their command."""

    word: str

    def start(self) -> str:
        """Statements that start a child with the word, and a daemon that left its parents' session."""
        sleeper = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        return f"""
import os, subprocess, sys
command = [sys.executable, "-c", {sleeper!r}, {self.word!r}]
subprocess.Popen(command)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(command[0], command)
    os._exit(0)
"""

    def pids(self) -> list[int]:
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                words = (directory / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if self.word.encode() in words:
                found.append(int(directory.name))
        return found

    def user_ids(self) -> set[int]:
        """Whose they are, as this host sees it."""
        return {Path(f"/proc/{pid}").stat().st_uid for pid in self.pids()}
