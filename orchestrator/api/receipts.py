"""Receipts: what a setup or a call took, told in the headers of its reply.

`Kodou-Cold` says what had to be made first, and `Server-Timing` (W3C) how long each phase took, as browsers show it too.
"""

from collections.abc import Iterable
from typing import Any

from orchestrator.api.problems import Header

COLD = b"kodou-cold"
SERVER_TIMING = b"server-timing"

COLD_NONE: Header = (COLD, b"none")
COLD_SESSION: Header = (COLD, b"session")  # a sandbox was started
COLD_ENVIRONMENT: Header = (COLD, b"environment")  # its image was built, too

# For the description of replies that carry them.
DESCRIBED: dict[str, dict[str, Any]] = {
    "Kodou-Cold": {
        "description": "What had to be made first: nothing, a sandbox for the session, or the environment's image too.",
        "schema": {"type": "string", "enum": ["none", "session", "environment"]},
    },
    "Server-Timing": {
        "description": "Milliseconds of each phase that there was: `auth`, `queue`, `build`, `start`, `thaw`, `run`.",
        "schema": {"type": "string", "examples": ["auth;dur=0.021, start;dur=212.334"]},
    },
}


def server_timing(phases: Iterable[tuple[str, float]]) -> bytes:
    """The value of `Server-Timing`: pairs of a phase's name and its seconds, told in milliseconds, in their order."""
    return ", ".join([f"{name};dur={seconds * 1000:.3f}" for name, seconds in phases]).encode("ascii")
