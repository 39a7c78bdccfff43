"""Each option that a sandbox or a builder sandbox is created with, as a table: a missing one is a hole."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.records import Resources
from orchestrator.sandboxes.backend import SandboxSpec
from orchestrator.sandboxes.docker.gvisor import host_pids
from orchestrator.sandboxes.docker.options import builder_body, sandbox_body

MB = 1024 * 1024
ABSENT = object()


def sandbox(spec: SandboxSpec | None = None, **others: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "sandbox_id": "5" * 32,
        "environment_id": "py3.12-0a1b",
        "instance": "f" * 16,
        "uid": 2_000_007,
        "run_dir": Path("/srv/run/x"),
        "hosts": Path("/srv/hosts"),
        "seccomp": "{profile}",
        "labels": {"io.kodou.session": "s1"},
    }
    spec = spec or SandboxSpec(Resources(memory_mb=300, cpus=1.5, pids=99, disk_mb=40), nofile=512)
    return sandbox_body("kodou/env:py3.12-0a1b", spec, **{**options, **others})


def builder(**others: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "instance": "f" * 16,
        "memory_mb": 2048,
        "cpus": 2.0,
        "seccomp": "{profile}",
        "mounts": {"/build": Path("/srv/builds/x")},
    }
    return builder_body("kodou/runner:0a1b", ["probe"], **{**options, **others})


def at(body: dict[str, Any], path: str) -> object:
    found: Any = body
    for name in path.split("/"):
        found = found.get(name, ABSENT) if isinstance(found, dict) else ABSENT
    return found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("Image", "kodou/env:py3.12-0a1b"),
        ("Entrypoint", []),
        ("Cmd", ["/opt/kodou/env/bin/python", "-I", "/opt/kodou/lib/runner/boot.py", "/run/kodou/s"]),
        ("User", "2000007:2000007"),
        ("WorkingDir", "/tmp"),
        ("Hostname", "sandbox"),
        (
            "Env",
            ["PATH=/opt/kodou/env/bin:/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "TMPDIR=/tmp", "LANG=C.UTF-8"],
        ),
        ("AttachStdin", False),
        ("AttachStdout", False),
        ("AttachStderr", False),
        ("OpenStdin", False),
        ("Tty", False),
        ("NetworkDisabled", True),
        ("Healthcheck", {"Test": ["NONE"]}),
        ("HostConfig/NetworkMode", "none"),
        ("HostConfig/ReadonlyRootfs", True),
        ("HostConfig/Privileged", False),
        ("HostConfig/CapDrop", ["ALL"]),
        ("HostConfig/CapAdd", ABSENT),
        ("HostConfig/Devices", ABSENT),
        ("HostConfig/Binds", ABSENT),
        ("HostConfig/SecurityOpt", ["no-new-privileges", "seccomp={profile}"]),
        ("HostConfig/Memory", 300 * MB),
        ("HostConfig/MemorySwap", 300 * MB),
        ("HostConfig/PidsLimit", 99),
        ("HostConfig/CpuPeriod", 100_000),
        ("HostConfig/CpuQuota", 150_000),
        (
            "HostConfig/Ulimits",
            [{"Name": "nofile", "Soft": 512, "Hard": 512}, {"Name": "core", "Soft": 0, "Hard": 0}],
        ),
        ("HostConfig/OomScoreAdj", 500),
        (
            "HostConfig/Tmpfs",
            dict.fromkeys(("/tmp", "/dev/shm"), "rw,nosuid,nodev,exec,size=40m,nr_inodes=10240,mode=1777"),
        ),
        ("HostConfig/IpcMode", "private"),
        ("HostConfig/CgroupnsMode", "private"),
        ("HostConfig/PidMode", ABSENT),
        ("HostConfig/UTSMode", ABSENT),
        ("HostConfig/UsernsMode", ABSENT),
        ("HostConfig/LogConfig", {"Type": "none", "Config": {}}),
        ("HostConfig/Init", False),
        ("HostConfig/AutoRemove", False),
        ("HostConfig/RestartPolicy", {"Name": "no"}),
        ("HostConfig/Runtime", ABSENT),
        (
            "HostConfig/Mounts",
            [
                {
                    "Type": "bind",
                    "Source": "/srv/run/x",
                    "Target": "/run/kodou",
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rprivate"},
                },
                {
                    "Type": "bind",
                    "Source": "/srv/hosts",
                    "Target": "/etc/hosts",
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rprivate"},
                },
            ],
        ),
        (
            "Labels",
            {
                "io.kodou.session": "s1",
                "io.kodou.kind": "sandbox",
                "io.kodou.instance": "f" * 16,
                "io.kodou.sandbox": "5" * 32,
                "io.kodou.environment": "py3.12-0a1b",
                "io.kodou.uid": "2000007",
                "io.kodou.given": "io.kodou.session",
            },
        ),
    ],
)
def test_a_sandbox_is_created_with(path: str, value: object) -> None:
    assert at(sandbox(), path) == value


def test_labels_given_cannot_make_a_sandbox_another_servers() -> None:
    labels = sandbox(labels={"io.kodou.instance": "e" * 16, "io.kodou.kind": "environment"})["Labels"]
    assert (labels["io.kodou.instance"], labels["io.kodou.kind"]) == ("f" * 16, "sandbox")


@pytest.mark.parametrize("network", ["none", "egress", "host", "bridge"])
def test_no_sandbox_has_a_network_whatever_is_asked_for(network: str) -> None:
    resources = Resources(memory_mb=300, cpus=1.5, pids=99, disk_mb=40)
    body = sandbox(SandboxSpec(resources, network=network))
    assert (body["NetworkDisabled"], body["HostConfig"]["NetworkMode"]) == (True, "none")
    assert body == sandbox(SandboxSpec(resources))


def test_a_runtime_that_is_set_is_used() -> None:
    assert sandbox(runtime="runsc")["HostConfig"]["Runtime"] == "runsc"
    assert builder(runtime="runsc")["HostConfig"]["Runtime"] == "runsc"


def test_under_gvisor_its_kernel_bounds_processes_and_the_host_bounds_gvisor() -> None:
    host = sandbox(runtime="runsc")["HostConfig"]
    assert {"Name": "nproc", "Soft": 99, "Hard": 99} in host["Ulimits"]
    assert host["PidsLimit"] == host_pids(99)
    assert {"Name": "nproc", "Soft": 512, "Hard": 512} in builder(runtime="runsc")["HostConfig"]["Ulimits"]


def test_variables_of_the_base_image_are_taken_away_but_not_ours() -> None:
    assert sandbox(unset=["GPG_KEY", "LANG"])["Env"][4:] == ["GPG_KEY"]


def test_shared_memory_is_small_where_the_disk_is_large() -> None:
    spec = SandboxSpec(Resources(memory_mb=300, cpus=1.5, pids=99, disk_mb=4000))
    assert "size=64m,nr_inodes=16384," in sandbox(spec)["HostConfig"]["Tmpfs"]["/dev/shm"]


def test_a_sliver_of_a_processor_is_what_the_kernel_can_give() -> None:
    spec = SandboxSpec(Resources(memory_mb=300, cpus=0.001, pids=99, disk_mb=40))
    assert sandbox(spec)["HostConfig"]["CpuQuota"] == 1000


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("Cmd", ["python3", "-I", "-S", "/opt/kodou/lib/builder/boot.py", "probe"]),
        ("Entrypoint", []),
        ("User", "10001:10001"),
        ("AttachStdout", True),
        ("AttachStderr", True),
        ("NetworkDisabled", True),
        ("HostConfig/NetworkMode", "none"),
        ("HostConfig/ReadonlyRootfs", True),
        ("HostConfig/CapDrop", ["ALL"]),
        ("HostConfig/SecurityOpt", ["no-new-privileges", "seccomp={profile}"]),
        ("HostConfig/Memory", 2048 * MB),
        ("HostConfig/MemorySwap", 2048 * MB),
        ("HostConfig/CpuQuota", 200_000),
        ("HostConfig/PidsLimit", 512),
        ("HostConfig/LogConfig", {"Type": "none", "Config": {}}),
        ("Labels", {"io.kodou.kind": "builder", "io.kodou.instance": "f" * 16}),
    ],
)
def test_a_builder_sandbox_is_created_with(path: str, value: object) -> None:
    assert at(builder(), path) == value


def test_a_builder_that_installs_may_write_no_larger_file_than_an_environment() -> None:
    host = builder(writable_mb=100)["HostConfig"]
    assert host["ReadonlyRootfs"] is False
    assert {"Name": "fsize", "Soft": 100 * MB, "Hard": 100 * MB} in host["Ulimits"]


def test_what_a_builder_is_given_is_read_only() -> None:
    mounts = builder(mounts={"/build": Path("/a"), "/run/kodou-index": Path("/b")})["HostConfig"]["Mounts"]
    assert [(each["Source"], each["Target"], each["ReadOnly"]) for each in mounts] == [
        ("/a", "/build", True),
        ("/b", "/run/kodou-index", True),
    ]


def test_a_shared_sandbox_begins_as_root_with_three_rights_and_is_told_whom_to_become() -> None:
    spec = SandboxSpec(Resources(memory_mb=300, cpus=1.5, pids=99, disk_mb=40), slots=50)
    body, alone = sandbox(spec, uid=2_000_064), sandbox()
    assert at(body, "User") == "0:0"
    assert at(body, "HostConfig/CapAdd") == ["SETUID", "SETGID", "SETPCAP"]
    assert at(body, "Cmd") == [
        *("/opt/kodou/lib/python/bin/python", "-I", "/opt/kodou/lib/runner/boot.py"),
        *("/run/kodou/s", "/opt/kodou/env", "share=2000064"),
    ]
    assert (body["Labels"]["io.kodou.uid"], body["Labels"]["io.kodou.uids"]) == ("2000064", "64")
    changed = {"User", "Cmd", "Labels", "HostConfig"}
    assert {name: value for name, value in body.items() if name not in changed} == {
        name: value for name, value in alone.items() if name not in changed
    }
    assert {name: value for name, value in body["HostConfig"].items() if name != "CapAdd"} == (
        sandbox(SandboxSpec(spec.resources))["HostConfig"]
    )


def test_no_other_sandbox_gets_rights() -> None:
    assert at(sandbox(), "HostConfig/CapAdd") is ABSENT
    assert "io.kodou.uids" not in sandbox()["Labels"]
