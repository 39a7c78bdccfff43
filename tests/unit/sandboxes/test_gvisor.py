"""What gVisor is to be registered with, and what sandboxes are given for it."""

import json
from typing import Any

import pytest

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes.docker.gvisor import host_pids, is_gvisor, missing_arguments, platform, version
from orchestrator.sandboxes.docker.host import engine_promises, require_runtime
from orchestrator.sandboxes.seccomp import profile_json
from orchestrator.settings import Settings

ARGUMENTS = ["--host-uds=open", "--oci-seccomp", "--directfs=false", "--overlay2=none"]


def registered(*arguments: str) -> dict[str, Any]:
    return {"path": "/usr/bin/runsc", "runtimeArgs": list(arguments)}


def started(runtime: str | None, runtimes: dict[str, Any], default: str = "runc") -> None:
    """As a server's start does it."""
    info = {"Runtimes": {"runc": {"path": "runc"}, **runtimes}, "DefaultRuntime": default}
    require_runtime(engine_promises(info, Settings(docker_runtime=runtime)))


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("runsc", True),
        ("runsc-kvm", True),
        ("io.containerd.runsc.v1", True),
        ("gvisor", True),
        ("runc", False),
        (None, False),
    ],
)
def test_gvisor_is_known_by_its_name(name: str | None, is_one: bool) -> None:
    assert is_gvisor(name) is is_one


def test_the_hosts_limit_stands_well_behind_gvisors() -> None:
    assert host_pids(100) > 300


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (ARGUMENTS, []),
        (["--platform=kvm", "-host-uds=all", "--oci-seccomp=true", "--directfs=false", "-overlay2=none"], []),
        (ARGUMENTS[1:], ["--host-uds=open"]),
        (["--host-uds=none", *ARGUMENTS[1:]], ["--host-uds=open"]),
        ([], ["--host-uds=open", "--oci-seccomp=true", "--directfs=false", "--overlay2=none"]),
    ],
)
def test_what_a_registration_lacks_is_named(arguments: list[str], missing: list[str]) -> None:
    assert missing_arguments(registered(*arguments)) == missing


def test_of_a_containerd_shim_nothing_can_be_missed() -> None:
    assert missing_arguments({"runtimeType": "io.containerd.runsc.v1"}) == []


def test_the_platform_is_the_one_named_or_gvisors_own() -> None:
    assert platform(registered("--platform=kvm")) == "kvm"
    assert platform(registered()) == "systrap"


def test_a_release_that_cannot_be_asked_for_is_none() -> None:
    assert version({"path": "/nonexistent/runsc"}) is None
    assert version({}) is None


@pytest.mark.parametrize("runtime", ["runsc", None, "runc"])
def test_a_runtime_that_can_serve_starts(runtime: str | None) -> None:
    started(runtime, {"runsc": registered(*ARGUMENTS)})


@pytest.mark.parametrize(
    ("runtime", "runtimes", "default", "said"),
    [
        ("runsc", {}, "runc", "no runtime runsc, only runc; scripts/gvisor"),
        ("kata", {}, "runc", "no runtime kata, only runc"),
        ("runsc", {"runsc": registered()}, "runc", "registered with the engine without --host-uds=open"),
        (None, {"runsc": registered(*ARGUMENTS)}, "runsc", "set KODOU_DOCKER_RUNTIME=runsc"),
    ],
)
def test_one_that_cannot_is_refused(runtime: str | None, runtimes: dict[str, Any], default: str, said: str) -> None:
    with pytest.raises(EngineUnavailable, match=said):
        started(runtime, runtimes, default)


def test_gvisor_refuses_with_the_errors_that_c_libraries_fall_back_from() -> None:
    """`clone3` must fail with ENOSYS: gVisor answers that to what is left to a tracer, and EPERM to what names an error."""
    ours, gvisors = (json.loads(profile_json(gvisor=gvisor)) for gvisor in (False, True))
    changed = [pair for pair in zip(ours["syscalls"], gvisors["syscalls"], strict=True) if pair[0] != pair[1]]
    (before, after), *others = changed
    assert others == []
    assert "clone3" in before["names"]
    assert (before["action"], before["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    assert (after["action"], after["names"]) == ("SCMP_ACT_TRACE", before["names"])
    assert "errnoRet" not in after
