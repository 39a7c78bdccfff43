"""The contract between kodou and what makes sandboxes. Nothing here knows HTTP, a session or a user.

A backend has two halves: `SandboxBackend` starts and stops sandboxes, `ImageStore` builds, lists and removes the
images they start from. Docker, bubblewrap and process implement both; `tests/contract` holds the suite they all pass.
Handles are plain data, so that another process can take them up after a crash.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from orchestrator.records import Resources
from orchestrator.sandboxes.channel import RunnerChannel


@dataclass(frozen=True, slots=True)
class Interpreter:
    """One interpreter on offer: what environments of its version are built on."""

    language: str  # "python"
    version: str  # exact: "3.12.4"
    base: str  # the backend's name for it: an image reference, or an executable's path
    digest: str  # sha256 over base, runner sources and whatever else an image built on it depends on
    platform: str  # as uv's --python-platform wants it: "x86_64-manylinux_2_36"
    markers: Mapping[str, str]  # PEP 508 environment of that interpreter
    base_digest: str = ""  # "sha256:" and 64 hex: the base alone
    runner: str = ""  # version of the runner, "+" and the begin of its sources' digest


@dataclass(frozen=True, slots=True)
class Image:
    """The built form of an environment. Its labels tell all there is to know (`io.kodou.*`)."""

    environment_id: str
    ref: str  # the backend's name for it
    size_bytes: int
    created_at: datetime
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """Everything a sandbox is started with. No request's key ever becomes an engine option but through this.

    `slots`: it is shared by so many sessions of one owner (`slots.py`), and `resources` are of all of them; 0: it is not.
    """

    resources: Resources
    network: str = "none"
    nofile: int = 1024
    owner: str = ""  # whose it is, as hex digits; where starts wait, owners take turns
    slots: int = 0


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A handle. `data` is the backend's own, JSON-ready, and enough to find the sandbox after a crash."""

    id: str  # 32 hex digits, random; names the run directory and the engine's object
    backend: str
    environment_id: str
    data: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    running: bool
    exit_code: int | None = None
    reason: str = ""  # "running", "exited", "oom", "gone"


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """One step of a build, for whoever watches. Unknown numbers are None."""

    phase: str  # "resolve" | "fetch" | "install" | "compile" | "commit" | "ready"
    package: str | None = None
    bytes: int | None = None  # so far, of `package`
    total: int | None = None
    line: str | None = None  # a line of the installer's log


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """What a builder sandbox installs: local, hash-checked files only."""

    environment_id: str
    interpreter: Interpreter
    files: Sequence[Path]  # wheels and sdists of the whole set, on this host
    from_source: bool  # an sdist is among them: its build backend runs, and may fetch build requirements
    labels: Mapping[str, str]
    timeout_s: float
    log_tail_bytes: int
    hashes: Sequence[
        str
    ] = ()  # SHA-256 (hex) of each of `files`; none: nothing of it is shared with other environments


class SandboxBackend(Protocol):
    """Knows one engine. All raise `EngineUnavailable` when the engine does not answer."""

    name: str
    images: "ImageStore"

    async def start(self, image: Image, spec: SandboxSpec, *, labels: Mapping[str, str]) -> Sandbox:
        """Start a sandbox; its runner begins to connect. Raises `NotFound` if the image is gone."""

    async def connect(self, sandbox: Sandbox, *, timeout_s: float) -> RunnerChannel:
        """The channel to its runner, greeted and ready for `configure`. Also after a restart of this process.
        Raises `SandboxLost` if the sandbox ended or does not answer in time."""

    async def inspect(self, sandbox: Sandbox) -> SandboxStatus:
        """What the engine says of it."""

    async def freeze(self, sandbox: Sandbox) -> bool:
        """Let none of its processes run until `thaw`; frozen already is success. False: nothing here can do that.
        It is bounded in time, whatever runs in it. Raises `SandboxLost`: it ended; `EngineUnavailable`: it is frozen or not."""

    async def thaw(self, sandbox: Sandbox) -> None:
        """Let its processes run again, from where they were; not frozen is success. Also after a restart of this process.
        Raises `SandboxLost`."""

    async def stop(self, sandbox: Sandbox, *, grace_s: float = 0.0) -> None:
        """End and remove it, frozen or not, with all that belongs to it on this host. Already gone is success."""

    async def owned(self, labels: Mapping[str, str]) -> list[Sandbox]:
        """All sandboxes, running or not, that carry these labels: what a crash left behind."""

    async def aclose(self) -> None:
        """Let go of the engine; sandboxes go on running."""


class ImageStore(Protocol):
    """Images of one backend. The engine is the truth."""

    async def prepare(self) -> None:
        """Make the interpreters ready that settings name (build runner images). Slow the first time. May be called twice.
        One that cannot be made ready is logged and not offered."""

    async def interpreters(self) -> list[Interpreter]:
        """What is on offer, newest first. Empty before `prepare`."""

    async def lock_in_sandbox(self, interpreter: Interpreter, requirements: Sequence[str], *, timeout_s: float) -> str:
        """Resolve a set that needs source builds, inside a builder sandbox that reaches the index only.
        Returns a pylock.toml as text, to be treated as hostile. Raises `DependencyUnresolvable`, `BuildFailed`."""

    def build(self, order: BuildOrder) -> AsyncIterator[BuildEvent]:
        """Build an image; nothing is named or listed until all has succeeded. Raises `BuildFailed` with the log's end."""

    async def find(self, environment_id: str) -> Image | None:
        """The image of an environment, if it was built and is there."""

    async def list(self) -> list[Image]:
        """All images that kodou built here."""

    async def remove(self, image: Image) -> bool:
        """Remove it. False: a sandbox uses it. Already gone is success."""
