"""RunnerChannel: the two connections to one runner (`runner/frames.py`). The other end is hostile; nothing is trusted."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Value:
    """`body` is the whole HTTP body, checked to be one JSON object, passed on as it came."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Raised:
    body: bytes


@dataclass(frozen=True, slots=True)
class NotSerializable:
    body: bytes


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """The call named what is not there. `code` is one of `runner.frames.REFUSALS`."""

    code: str
    detail: str
    field: str | None


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline came; `clean` if the runner confirmed that everything the call started is dead."""

    clean: bool


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker ended under the call (`os._exit`, a signal, out of memory). A fresh one is on its way."""

    exit_code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class Violation:
    """The runner broke the protocol, or its process is gone: the sandbox has to go."""

    reason: str


Reply = Value | Raised | NotSerializable | RefusedCall | TimedOut | WorkerDied | Violation


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """What a runner is told once it is claimed; see CONFIG in `runner/frames.py`."""

    env: dict[str, str]
    max_reply_bytes: int
    max_output_bytes: int
    max_items: int
    orphan_s: int
    fsize_bytes: int


class RunnerChannel(Protocol):
    """One call at a time runs; more wait in order of arrival."""

    async def configure(self, config: RunnerConfig, *, timeout_s: float) -> None:
        """Send CONFIG and wait for the worker's greeting. Raises `SandboxLost`."""

    async def call(self, body: bytes, *, flags: int, timeout_s: float) -> Reply:
        """Run one call; always returns within `timeout_s` + 0.25 s of its start, after waiting for its turn."""

    def alive(self) -> bool:
        """The control connection stands."""

    async def aclose(self) -> None:
        """Close both connections; the runner goes on and may be connected to again. May be called twice."""
