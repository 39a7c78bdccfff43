"""What the store keeps: plain data, each with a revision that every change raises by one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class EnvironmentState(StrEnum):
    PLANNED = "planned"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"
    PRUNED = "pruned"


class SessionState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    RESTARTING = "restarting"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Key:
    """What scopes hang on. Its API id is a JWT with `id` as `jti`; its secret is kept as a SHA-256 (hex)."""

    id: str
    name: str
    owner: str
    scopes: frozenset[str]
    secret_sha256: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Environment:
    """Language, version and locked dependencies, and the image they became."""

    id: str
    language: str
    version: str
    packages: Mapping[str, str]  # normalised name -> exact version
    lock: str  # pylock.toml (PEP 751)
    backend: str
    image_ref: str | None  # the backend's name for the built form; None until built
    size_bytes: int
    state: EnvironmentState
    reason: str
    since: datetime
    created_at: datetime
    last_used_at: datetime
    uses: int = 0
    document: str = ""  # the lock as clients keep it: JSON (`environments/lock_document.py`)
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Alias:
    """A canonical request and the environment that it was resolved to, for a set time."""

    id: str  # digest of the canonical request
    environment_id: str
    resolved_at: datetime
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Resources:
    memory_mb: int
    cpus: float
    pids: int
    disk_mb: int


@dataclass(frozen=True, slots=True)
class Session:
    """A client's hold on a sandbox. `sandbox` is the backend's plain-data handle, enough to find it after a crash."""

    id: str
    owner: str
    key_id: str
    environment_id: str
    resources: Resources
    network: str  # "none" | "egress"
    env: Mapping[str, str]
    ttl_s: int  # seconds of idleness until it is reaped
    state: SessionState
    reason: str
    since: datetime
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    sandbox: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0


Record = Key | Environment | Alias | Session
