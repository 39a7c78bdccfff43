"""The contract of the way to a runner. `socket_channel.py` has it for sandboxes, and tests have doubles of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.sandboxes.events import Events
from orchestrator.sandboxes.work import Run, Work


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """What a runner is told once it is claimed; see CONFIG in `runner/frames.py`."""

    env: dict[str, str]
    max_reply_bytes: int
    max_output_bytes: int
    max_items: int
    orphan_s: int
    fsize_bytes: int
    max_content_bytes: int = 1024**3
    max_references: int = 1000
    max_reference_bytes: int = 256 * 1024**2
    first: bool = True
    egress: bool = False


class RunnerChannel(Protocol):
    """One call at a time runs; more wait in order of arrival."""

    async def configure(self, config: RunnerConfig, *, timeout_s: float) -> None:
        """Send CONFIG and wait for the worker's greeting. Raises `SandboxLost`."""

    async def preload(self, distributions: Sequence[str], *, timeout_s: float) -> int:
        """Before `configure`: have the modules of these imported where every worker finds them. Returns the bytes of
        memory that the runner says it takes now. Raises `SandboxLost`."""

    async def call(
        self, work: Work, *, timeout_s: float, until: float | None = None, events: Events | None = None
    ) -> Run:
        """Run one request; always returns within `timeout_s` + 0.25 s of its start, after waiting for its turn.

        It runs no longer than `until`, in the loop's time; if its turn comes after that, it is not begun. `events` get what
        it tells before its reply. The next one begins once the reply's content, if it has any, is read or dropped.
        """

    def alive(self) -> bool:
        """The control connection stands."""

    def idle(self) -> bool:
        """No call runs or waits, nor the fresh worker after one."""

    async def aclose(self) -> None:
        """Close both connections; the runner goes on and may be connected to again. May be called twice."""
