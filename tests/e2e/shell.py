"""`kodou` as a shell runs it."""

import os
import subprocess
from dataclasses import dataclass

from tests.servers import BASE_IMAGES, KODOU

TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Shell:
    """Runs `kodou` as a user with a key would."""

    environment: dict[str, str]

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [KODOU, *arguments],
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def out(self, *arguments: str, **more: str) -> str:
        """What it prints; it must succeed."""
        done = self.run(*arguments, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout


def plain_environment() -> dict[str, str]:
    """The machine's, without settings of kodou's, and with what the tests' servers run on."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("KODOU_")}
    return {**own, "KODOU_BASE_IMAGES": BASE_IMAGES, "KODOU_ALLOW_PROCESS_BACKEND": "1", "COLUMNS": "120"}
