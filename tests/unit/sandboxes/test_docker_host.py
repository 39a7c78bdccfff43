"""What the engine says of itself, as what it means for sandboxes and as promises."""

import os
from typing import Any

import pytest

from orchestrator.sandboxes.docker.host import Host, docker_promises, engine_promises
from orchestrator.settings import Settings

GOOD: dict[str, Any] = {
    "ServerVersion": "20.10.24+dfsg1",
    "SecurityOptions": ["name=seccomp,profile=default", "name=userns"],
    "CgroupVersion": "2",
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "DefaultRuntime": "runc",
    "Runtimes": {"runc": {}},
    "Driver": "overlay2",
    "LiveRestoreEnabled": True,
}


def held(info: dict[str, Any], **settings: Any) -> dict[str, bool]:
    return {promise.name: promise.held for promise in engine_promises(info, Settings(**settings))}


def test_a_good_engine_holds_all() -> None:
    assert all(held(GOOD).values())


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"ServerVersion": "19.03.8"}, "engine"),
        ({"SecurityOptions": ["name=userns"]}, "seccomp"),
        ({"SwapLimit": False}, "limits"),
        ({"PidsLimit": False}, "limits"),
        ({"Runtimes": {"runsc": {}}}, "runtime"),
        ({"SecurityOptions": ["name=seccomp"]}, "user namespaces"),
        ({"Driver": "vfs"}, "storage"),
        ({"LiveRestoreEnabled": False}, "sessions survive the engine's restart"),
    ],
)
def test_what_an_engine_lacks_is_not_promised(change: dict[str, Any], broken: str) -> None:
    promises = held({**GOOD, **change})
    assert [name for name, kept in promises.items() if not kept] == [broken]


def test_a_runtime_that_the_engine_lacks_is_told() -> None:
    assert not held(GOOD, docker_runtime="runsc")["runtime"]


def test_an_engine_elsewhere_cannot_mount_links() -> None:
    assert not held(GOOD, docker_url="tcp://10.0.0.1:2376")["same host"]


@pytest.mark.anyio
async def test_no_engine_is_one_promise_not_held() -> None:
    (promise,) = await docker_promises(Settings(docker_url="tcp://127.0.0.1:1"))
    assert (promise.name, promise.held) == ("engine", False)


def test_user_ids_fit_into_a_remapped_namespace() -> None:
    host = Host.of(GOOD, Settings())
    assert host.uid_base + host.uid_count <= 65_536
    assert not host.gives_files_away
    assert not host.sees_uids


def test_without_remapping_sandboxes_have_the_user_ids_of_settings() -> None:
    host = Host.of({**GOOD, "SecurityOptions": ["name=seccomp"]}, Settings(sandbox_uid_base=5000, sandbox_uid_count=7))
    assert (host.uid_base, host.uid_count, host.sees_uids) == (5000, 7, True)
    assert host.gives_files_away == (os.geteuid() == 0)


def test_who_connects_from_a_kernel_of_its_own_has_no_user_id_of_ours() -> None:
    info = {**GOOD, "SecurityOptions": ["name=seccomp"]}
    assert not Host.of(info, Settings(docker_runtime="runsc")).sees_uids


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"SecurityOptions": ["name=seccomp"]}, True),
        ({"SecurityOptions": ["name=seccomp", "name=userns"]}, False),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, False),
        ({"SecurityOptions": ["name=seccomp"], "DefaultRuntime": "kata"}, False),
    ],
)
def test_sandboxes_are_shared_where_user_ids_are_seen(change: dict[str, Any], kept: bool) -> None:
    assert "shared sandboxes" not in held({**GOOD, **change})
    assert held({**GOOD, **change}, share_sandboxes="owner")["shared sandboxes"] is kept
