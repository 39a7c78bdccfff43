"""What sandboxes and builder sandboxes are created with: bodies of the engine's `POST /containers/create`. Pure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.sandboxes.backend import SandboxSpec
from orchestrator.sandboxes.docker.gvisor import host_pids, is_gvisor
from orchestrator.sandboxes.labels import ENVIRONMENT_LABEL, INSTANCE_LABEL
from orchestrator.sandboxes.layout import BUILDER_COMMAND, LINK, RUNNER_COMMAND, SHARED_COMMAND, TMP, VARIABLES
from orchestrator.sandboxes.slots import block

BUILD_UID = 10_001  # owns ENV in runner images; see Dockerfile.runner

# Labels. An object inherits those of the image it was made from, so each kind of object says its own kind.
KIND = "io.kodou.kind"  # one of the four below
SANDBOX, BUILDER, RUNNER_IMAGE, ENVIRONMENT_IMAGE = "sandbox", "builder", "runner", "environment"
SANDBOX_ID = "io.kodou.sandbox"
UID = "io.kodou.uid"
UID_COUNT = "io.kodou.uids"  # of a shared sandbox only
GIVEN = "io.kodou.given"  # names of the labels that `start` was given
UNSET = "io.kodou.unset"  # names of the variables that the base image sets, comma separated

LAYER_BYTES = "io.kodou.bytes"  # what an environment adds to its runner image, with all that it is built upon
REPOSITORY = "kodou/env"  # of environment images; their tag is the environment's id

HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost\n"

MB = 1024 * 1024
SHM_MB = 64
INODES_PER_MB = 256  # of /tmp: one for every 4 KiB
CPU_PERIOD_US = 100_000
MIN_CPU_QUOTA_US = 1_000  # the kernel takes no less
# What process 1 of a shared sandbox begins with; it keeps the first two (`runner/privileges.py`).
SHARING_CAPABILITIES = ("SETUID", "SETGID", "SETPCAP")
OOM_SCORE = 500  # a host that runs out of memory ends sandboxes before it ends the server or the engine
BUILDER_PIDS = 512
BUILDER_NOFILE = 8192


def sandbox_body(
    image_ref: str,
    spec: SandboxSpec,
    *,
    sandbox_id: str,
    environment_id: str,
    instance: str,
    uid: int,
    run_dir: Path,
    hosts: Path,
    seccomp: str,
    runtime: str | None = None,
    labels: Mapping[str, str],
    unset: Sequence[str] = (),
    command: Sequence[str] = RUNNER_COMMAND,
) -> dict[str, Any]:
    """The body for a sandbox whose link is in `run_dir` (a directory of the engine's host); `hosts` is its /etc/hosts.

    `unset` names variables that the image sets and the sandbox must not see. `spec.network` is no option of the engine's:
    a sandbox has none in any case, and its way out, if any, is a socket in `run_dir` (`sandboxes/egress.py`). `uid` is the
    first of a shared sandbox's: its process 1 starts as root, and becomes that one before anything of the image runs.
    """
    host = _hardened(
        memory_mb=spec.resources.memory_mb,
        cpus=spec.resources.cpus,
        pids=spec.resources.pids,
        nofile=spec.nofile,
        tmp_mb=spec.resources.disk_mb,
        seccomp=seccomp,
        runtime=runtime,
        read_only=True,
    )
    # The engine makes /etc/hosts for networks only; without one, what images have there is hidden by an empty file.
    host["Mounts"] = [_read_only(run_dir, LINK), _read_only(hosts, "/etc/hosts")]
    shared = {}
    if spec.slots:
        host["CapAdd"] = list(SHARING_CAPABILITIES)
        shared[UID_COUNT] = str(block(spec.slots))
        command = (*SHARED_COMMAND, f"share={uid}")
    return {
        **_contained(image_ref, command, 0 if spec.slots else uid, host, unset),
        "Labels": {
            **labels,
            **shared,
            KIND: SANDBOX,
            INSTANCE_LABEL: instance,
            SANDBOX_ID: sandbox_id,
            ENVIRONMENT_LABEL: environment_id,
            UID: str(uid),
            GIVEN: ",".join(sorted(labels)),
        },
    }


def builder_body(
    image_ref: str,
    arguments: Sequence[str],
    *,
    instance: str,
    memory_mb: int,
    cpus: float,
    seccomp: str,
    runtime: str | None = None,
    writable_mb: int | None = None,
    mounts: Mapping[str, Path],
) -> dict[str, Any]:
    """The body for a builder sandbox: a sandbox without a network that prints its results.

    `writable_mb`: it may write to what the build user owns in the image (ENV and nothing else), no file larger than
    this; None: its root is read-only. `mounts`: path inside -> directory of the engine's host, all read-only.
    """
    host = _hardened(
        memory_mb=memory_mb,
        cpus=cpus,
        pids=BUILDER_PIDS,
        nofile=BUILDER_NOFILE,
        tmp_mb=memory_mb,
        seccomp=seccomp,
        runtime=runtime,
        read_only=writable_mb is None,
    )
    host["Mounts"] = [_read_only(source, target) for target, source in mounts.items()]
    if writable_mb is not None:
        host["Ulimits"].append(_limit("fsize", writable_mb * MB))
    return {
        **_contained(image_ref, ("python3", *BUILDER_COMMAND, *arguments), BUILD_UID, host, ()),
        "AttachStdout": True,
        "AttachStderr": True,
        "Labels": {KIND: BUILDER, INSTANCE_LABEL: instance},
    }


def _contained(
    image_ref: str,
    command: Sequence[str],
    uid: int,
    host: dict[str, Any],
    unset: Sequence[str],
) -> dict[str, Any]:
    return {
        "Image": image_ref,
        "Entrypoint": [],
        "Cmd": list(command),
        "User": f"{uid}:{uid}",
        "WorkingDir": TMP,
        "Hostname": "sandbox",
        # A namespace with nothing but loopback is what "none" gives too; this way the engine's network code is left out,
        # which takes half the time of a start.
        "NetworkDisabled": True,
        # A name without "=" takes the image's variable of that name away.
        "Env": [*(f"{name}={value}" for name, value in VARIABLES.items()), *(n for n in unset if n not in VARIABLES)],
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "OpenStdin": False,
        "Tty": False,
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": host,
    }


def _hardened(
    *,
    memory_mb: int,
    cpus: float,
    pids: int,
    nofile: int,
    tmp_mb: int,
    seccomp: str,
    runtime: str | None,
    read_only: bool,
) -> dict[str, Any]:
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "ReadonlyRootfs": read_only,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp}"],
        "Memory": memory_mb * MB,
        "MemorySwap": memory_mb * MB,  # memory and swap together; the engine's default allows the same again in swap
        "PidsLimit": pids,
        # Not NanoCpus: the engine refuses more of those than it has processors.
        "CpuPeriod": CPU_PERIOD_US,
        "CpuQuota": max(MIN_CPU_QUOTA_US, int(cpus * CPU_PERIOD_US)),
        "Ulimits": [_limit("nofile", nofile), _limit("core", 0)],
        "OomScoreAdj": OOM_SCORE,
        # /dev/shm as well: what the engine mounts there by itself holds files without number.
        "Tmpfs": {TMP: _tmpfs(tmp_mb), "/dev/shm": _tmpfs(min(SHM_MB, tmp_mb))},  # noqa: S108
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "LogConfig": {"Type": "none", "Config": {}},
        "Init": False,  # the supervisor is process 1 and reaps
        "AutoRemove": False,  # an ended sandbox is looked at before it goes
        "RestartPolicy": {"Name": "no"},
        "Privileged": False,
    }
    if runtime is not None:
        host["Runtime"] = runtime
    if is_gvisor(runtime):
        host["PidsLimit"] = host_pids(pids)
        host["Ulimits"].append(_limit("nproc", pids))  # a sandbox has one user id, so this counts all of it
    return host


def _tmpfs(size_mb: int) -> str:
    return f"rw,nosuid,nodev,exec,size={size_mb}m,nr_inodes={size_mb * INODES_PER_MB},mode=1777"


def _limit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}


def _read_only(source: Path, target: str) -> dict[str, Any]:
    # As "Mounts" and not "Binds": the engine then refuses a source that is not there instead of making it.
    return {
        "Type": "bind",
        "Source": str(source),
        "Target": target,
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate"},
    }
