"""What the engine and its host are like: what that means for sandboxes, and what can be promised."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import EngineUnavailable, KodouError
from orchestrator.sandboxes.docker.engine import Engine
from orchestrator.sandboxes.docker.gvisor import is_gvisor, missing_arguments, platform, version
from orchestrator.sandboxes.promises import SHARED_SANDBOXES, Promise
from orchestrator.settings import Settings

# In a remapped user namespace a container has 65,536 user ids, whatever they are outside.
REMAPPED_UID_BASE = 20_000
REMAPPED_UID_COUNT = 40_000
# Runtimes whose containers' processes are processes of the host, with the user ids we gave them.
_HOST_PROCESS_RUNTIMES = frozenset({"runc", "crun", "io.containerd.runc.v2"})
_RUNTIME = "runtime"  # a promise's name
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
    promises = engine_promises(info, settings)
    if is_gvisor(settings.docker_runtime):
        found = await asyncio.to_thread(version, info.get("Runtimes", {}).get(settings.docker_runtime, {}))
        if found is not None:
            promises.append(Promise("gVisor", True, f"release {found}"))
    return promises


def engine_promises(info: Mapping[str, Any], settings: Settings) -> list[Promise]:
    """From what the engine says of itself (`GET /info`)."""
    security = _security(info)
    release = str(info.get("ServerVersion", "unknown"))
    limits = [name for name in ("MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota") if not info.get(name)]
    remapped = is_remapped(info)
    live_restore = bool(info.get("LiveRestoreEnabled"))
    return [
        Promise("engine", _version(release) >= _LEAST_VERSION, f"version {release}; 20.10 or newer is needed"),
        Promise("seccomp", "seccomp" in security, "system calls are filtered" if "seccomp" in security else "none"),
        Promise("no network", True, "but loopback; `network: egress` is a proxy to public addresses"),
        Promise(
            "limits",
            not limits,
            f"control groups version {info.get('CgroupVersion', '1')}"
            + (f"; the kernel lacks {', '.join(limits)}" if limits else ""),
        ),
        _runtime(info, settings),
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
        *(_sharing(info, settings) if settings.share_sandboxes != "never" else ()),
        Promise(
            "same host",
            _is_local(settings),
            "the engine must see this server's data directory: links are sockets that it mounts",
        ),
    ]


def _sharing(info: Mapping[str, Any], settings: Settings) -> list[Promise]:
    detail = "they need an engine that does not remap user ids, and the runtime runc or crun"
    return [Promise(SHARED_SANDBOXES, Host.of(info, settings).sees_uids, detail)]


def require_runtime(promises: Sequence[Promise]) -> None:
    """Sandboxes run with the runtime that settings name, or not at all. Raises `EngineUnavailable` if it cannot serve."""
    for promise in promises:
        if promise.name == _RUNTIME and not promise.held:
            msg = f"KODOU_DOCKER_RUNTIME: {promise.detail}"
            raise EngineUnavailable(msg)


def _runtime(info: Mapping[str, Any], settings: Settings) -> Promise:
    known: Mapping[str, Any] = info.get("Runtimes") or {}
    default = str(info.get("DefaultRuntime", "runc"))
    name = settings.docker_runtime or default
    if name not in known:
        detail = f"the engine has no runtime {name}, only {', '.join(sorted(known))}"
        return Promise(_RUNTIME, False, f"{detail}; scripts/gvisor installs one" if is_gvisor(name) else detail)
    if not is_gvisor(name):
        return Promise(_RUNTIME, True, f"{name}; sandboxes share this host's kernel")
    if settings.docker_runtime is None:
        return Promise(_RUNTIME, False, f"the engine's own is gVisor: set KODOU_DOCKER_RUNTIME={name}")
    missing = missing_arguments(known[name])
    if missing:
        return Promise(
            _RUNTIME, False, f"{name} is registered with the engine without {' '.join(missing)} (runtimeArgs)"
        )
    return Promise(_RUNTIME, True, f"{name}: gVisor on {platform(known[name])}, a kernel of its own for each sandbox")


def _security(info: Mapping[str, Any]) -> set[str]:
    """Names of the engine's security options: "name=seccomp,profile=default" -> "seccomp"."""
    return {option.split(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or ()}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split("-")[0].split(".")[:2] if part.isdecimal())


def _is_local(settings: Settings) -> bool:
    url = settings.docker_url or os.environ.get("DOCKER_HOST") or "unix://"
    return url.startswith(("unix://", "http+unix://"))
