"""What the engine and its host are like: what that means for sandboxes, and what can be promised."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import KodouError
from orchestrator.sandboxes.docker.engine import Engine
from orchestrator.sandboxes.promises import Promise
from orchestrator.settings import Settings

# In a remapped user namespace a container has 65,536 user ids, whatever they are outside.
REMAPPED_UID_BASE = 20_000
REMAPPED_UID_COUNT = 40_000
# Runtimes whose containers' processes are processes of the host, with the user ids we gave them.
_HOST_PROCESS_RUNTIMES = frozenset({"runc", "crun", "io.containerd.runc.v2"})
_LEAST_VERSION = (20, 10)
_PING_S = 5.0


@dataclass(frozen=True, slots=True)
class Host:
    uid_base: int
    uid_count: int
    gives_files_away: bool  # a file can be given to a sandbox's user id
    sees_uids: bool  # who connects to a link has the sandbox's user id

    @classmethod
    def of(cls, info: Mapping[str, Any], settings: Settings) -> "Host":
        """From what the engine says of itself (`GET /info`)."""
        remapped = is_remapped(info)
        runtime = settings.docker_runtime or info.get("DefaultRuntime", "runc")
        return cls(
            uid_base=REMAPPED_UID_BASE if remapped else settings.sandbox_uid_base,
            uid_count=min(REMAPPED_UID_COUNT, settings.sandbox_uid_count) if remapped else settings.sandbox_uid_count,
            gives_files_away=not remapped and os.geteuid() == 0,
            sees_uids=not remapped and runtime in _HOST_PROCESS_RUNTIMES,
        )


def is_remapped(info: Mapping[str, Any]) -> bool:
    """User ids inside a container are others outside: user namespaces, or a rootless engine."""
    return bool(_security(info) & {"userns", "rootless"})


async def docker_promises(settings: Settings) -> list[Promise]:
    """What docker holds on this machine. An engine that does not answer is the first promise, not held."""
    engine = Engine(settings)
    try:
        await engine.ping(timeout_s=_PING_S)
        info = await engine.run(lambda client: client.info())
    except KodouError as exc:
        return [Promise("engine", False, f"{exc.detail}; is it running, and may this user reach it?")]
    finally:
        await engine.aclose()
    return engine_promises(info, settings)


def engine_promises(info: Mapping[str, Any], settings: Settings) -> list[Promise]:
    """From what the engine says of itself (`GET /info`)."""
    security = _security(info)
    version = str(info.get("ServerVersion", "unknown"))
    runtime = settings.docker_runtime or str(info.get("DefaultRuntime", "runc"))
    limits = [name for name in ("MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota") if not info.get(name)]
    remapped = is_remapped(info)
    live_restore = bool(info.get("LiveRestoreEnabled"))
    return [
        Promise("engine", _version(version) >= _LEAST_VERSION, f"version {version}; 20.10 or newer is needed"),
        Promise("seccomp", "seccomp" in security, "system calls are filtered" if "seccomp" in security else "none"),
        Promise(
            "limits",
            not limits,
            f"control groups version {info.get('CgroupVersion', '1')}"
            + (f"; the kernel lacks {', '.join(limits)}" if limits else ""),
        ),
        Promise(
            "runtime",
            runtime in (info.get("Runtimes") or {}),
            f"{runtime}; the engine knows {', '.join(sorted(info.get('Runtimes') or {}))}",
        ),
        Promise(
            "user namespaces",
            remapped,
            "user ids inside are others outside"
            if remapped
            else "the engine does not remap user ids; sandboxes run as unprivileged ones of the host all the same",
        ),
        Promise(
            "storage",
            info.get("Driver") in ("overlay2", "overlayfs"),
            f"{info.get('Driver')}; overlay2 is the one that is tested",
        ),
        Promise(
            "sessions survive the engine's restart",
            live_restore,
            "live-restore is on" if live_restore else 'set "live-restore": true in daemon.json',
        ),
        Promise(
            "same host",
            _is_local(settings),
            "the engine must see this server's data directory: links are sockets that it mounts",
        ),
    ]


def _security(info: Mapping[str, Any]) -> set[str]:
    """Names of the engine's security options: "name=seccomp,profile=default" -> "seccomp"."""
    return {option.split(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or ()}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split("-")[0].split(".")[:2] if part.isdecimal())


def _is_local(settings: Settings) -> bool:
    url = settings.docker_url or os.environ.get("DOCKER_HOST") or "unix://"
    return url.startswith(("unix://", "http+unix://"))
