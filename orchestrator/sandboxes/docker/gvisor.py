"""What is different under gVisor (`runsc`): a kernel of its own, made of processes of this host, runs the sandbox's.

The engine's limits hold for those processes. What a sandbox itself may do is told to gVisor's kernel.
"""

import subprocess
from collections.abc import Mapping
from typing import Any

# gVisor takes about two tasks of this host for each one inside, and some dozens for itself. Where the host's limit is
# reached it dies, and the sandbox with it: so that limit stands well behind the one that gVisor keeps.
_HOST_TASKS_EACH = 4
_HOST_TASKS_OWN = 512

_VERSION_S = 5.0

# What runsc is to be registered with (`scripts/gvisor`), as flag -> values that serve. Without the first no sandbox reaches its
# link, without the last what a build installs is lost; the others are promises: no system call past our filter, and
# none of the host's rights for what runs a sandbox's code.
_NEEDED = {
    "host-uds": ("open", "all"),
    "oci-seccomp": ("true",),
    "directfs": ("false",),
    "overlay2": ("none",),
}


def is_gvisor(runtime: str | None) -> bool:
    """Whether a runtime is gVisor, by its name: `runsc`, `runsc-kvm`, `gvisor`, `io.containerd.runsc.v1`."""
    return runtime is not None and ("runsc" in runtime or "gvisor" in runtime)


def host_pids(pids: int) -> int:
    """Tasks of the host that a sandbox of `pids` tasks may take."""
    return _HOST_TASKS_OWN + _HOST_TASKS_EACH * pids


def missing_arguments(registered: Mapping[str, Any]) -> list[str]:
    """The arguments that a registration lacks (an item of `Runtimes` of `GET /info`).

    Of a containerd shim, which has no `path`, the engine does not tell them, and none is missed.
    """
    if "path" not in registered:
        return []
    given = dict(_option(argument) for argument in registered.get("runtimeArgs") or ())
    return [f"--{name}={values[0]}" for name, values in _NEEDED.items() if given.get(name) not in values]


def platform(registered: Mapping[str, Any]) -> str:
    """How gVisor catches system calls: `systrap`, `kvm`, `ptrace`."""
    return dict(_option(argument) for argument in registered.get("runtimeArgs") or ()).get("platform", "systrap")


def version(registered: Mapping[str, Any]) -> str | None:
    """What the registered runsc says of itself, if it is on this host. Blocks."""
    try:
        said = subprocess.run([registered["path"], "--version"], capture_output=True, text=True, timeout=_VERSION_S)
    except (KeyError, OSError, subprocess.SubprocessError):
        return None
    return next((line.removeprefix("runsc version ") for line in said.stdout.splitlines()), None)


def _option(argument: str) -> tuple[str, str]:
    """`--name=value`, or `-name`, which stands for `true`."""
    name, _, value = argument.lstrip("-").partition("=")
    return name, value or "true"
