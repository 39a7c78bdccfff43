"""The promises of docker's sandboxes and builder sandboxes under gVisor: the same tests, and for each promise that is kept in
another way there a test of its own.

Not held as with the host's own kernel, and why:
- A user id of its own: all of gVisor's processes are nobody (65534) on this host, each sandbox's in a user namespace of its own.
- PID and cgroup namespaces of the host: its processes are in the host's, and see neither: they are in an empty root, and
  gVisor's own kernel gives the sandbox its PID namespace.
- Its score for the host's out-of-memory killer: the same, but on gVisor's processes.
"""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.sandboxes.docker.backend import DockerBackend
from tests.docker_fixtures import DockerBase, docker_settings
from tests.sandbox_calls import Calls, running
from tests.security import test_docker_isolation as under_any_kernel
from tests.security.test_docker_isolation import (
    environment_id,
    host_pid,
    namespace,
    status,
    test_a_build_cannot_change_the_files_that_others_install,
    test_a_build_reaches_the_index_and_nothing_else,
    test_a_crash_writes_no_core,
    test_dangerous_system_calls_are_refused,
    test_it_sees_no_network_but_its_loopback,
    test_no_engine_can_be_reached,
    test_no_file_gives_more_rights_than_its_user_has,
    test_nothing_of_the_host_is_mounted_but_its_link_and_names,
    test_shared_memory_is_small_and_counts_as_memory,
    test_sockets_of_unusual_kinds_are_refused,
    test_swap_adds_no_memory_and_the_host_ends_it_before_the_server,
    test_the_kernel_takes_no_settings_from_it,
    test_what_a_build_left_running_or_planted_has_no_power_over_sessions,
    test_what_it_prints_is_kept_nowhere,
)

# Named once more, for they are what this module consists of.
__all__ = [
    "environment_id",
    "test_a_build_cannot_change_the_files_that_others_install",
    "test_a_build_reaches_the_index_and_nothing_else",
    "test_a_crash_writes_no_core",
    "test_dangerous_system_calls_are_refused",
    "test_it_sees_no_network_but_its_loopback",
    "test_no_engine_can_be_reached",
    "test_no_file_gives_more_rights_than_its_user_has",
    "test_nothing_of_the_host_is_mounted_but_its_link_and_names",
    "test_shared_memory_is_small_and_counts_as_memory",
    "test_sockets_of_unusual_kinds_are_refused",
    "test_swap_adds_no_memory_and_the_host_ends_it_before_the_server",
    "test_the_kernel_takes_no_settings_from_it",
    "test_what_a_build_left_running_or_planted_has_no_power_over_sessions",
    "test_what_it_prints_is_kept_nowhere",
]

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


# One backend and one sandbox for all: a start takes a second here.


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def docker_runtime(gvisor: str) -> str:
    return gvisor


@pytest.fixture(scope="module")
async def docker_backend(docker_base: DockerBase, docker_runtime: str) -> AsyncIterator[DockerBackend]:
    with tempfile.TemporaryDirectory(prefix="kodou-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # noqa: ASYNC240
        backend = DockerBackend(docker_settings(directory / "data", docker_base.name, docker_runtime=docker_runtime))
        try:
            await backend.images.prepare()
            yield backend
            for sandbox in await backend.owned({}):
                await backend.stop(sandbox)
        finally:
            await backend.aclose()


@pytest.fixture(scope="module")
async def calls(docker_backend: DockerBackend, docker_base: DockerBase) -> AsyncIterator[Calls]:
    async with running(docker_backend, docker_base.image) as started:
        yield started


async def test_what_runs_its_code_is_nobody_and_holds_no_right_of_the_host(
    calls: Calls, docker_base: DockerBase
) -> None:
    pid = host_pid(docker_base, calls)
    seen = status(pid)
    assert seen["Uid"].split() == seen["Gid"].split() == ["65534"] * 4
    assert {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert seen["NoNewPrivs"] == "1"
    assert seen["Seccomp"] == "2"
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()  # noqa: ASYNC240
    assert [line.split()[4] for line in mounts] == ["/"]
    assert {path.name for path in Path(f"/proc/{pid}/root").rglob("*")} <= {"proc", "etc", "localtime"}  # noqa: ASYNC240


@pytest.mark.parametrize("kind", ["net", "mnt", "ipc", "uts", "user"])
async def test_what_runs_its_code_has_namespaces_of_its_own(calls: Calls, docker_base: DockerBase, kind: str) -> None:
    assert namespace(host_pid(docker_base, calls), kind) != namespace("self", kind)


async def test_the_kernel_that_it_sees_is_not_the_hosts(calls: Calls) -> None:
    host = Path("/proc/version").read_text()  # noqa: ASYNC240
    assert await calls.run("result = open('/proc/version').read()") != host


async def test_its_user_has_no_right_inside_either(calls: Calls) -> None:
    look = """
import ctypes, os
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
no_new_privileges = ctypes.CDLL(None).prctl(39, 0, 0, 0, 0)  # PR_GET_NO_NEW_PRIVS
result = [os.getuid(), os.getgid(), os.getgroups(), lines["CapEff"].strip(), lines["Seccomp"].strip(), no_new_privileges]
"""
    uid = int(calls.sandbox.data["uid"])
    found_uid, found_gid, groups, effective, seccomp, no_new_privileges = await calls.run(look)
    assert (found_uid, found_gid) == (uid, uid)
    assert set(groups) <= {uid}
    assert (int(effective, 16), seccomp, no_new_privileges) == (0, "2", 1)


@pytest.mark.parametrize("name", ["writes more than it may in many", "takes more memory than it may"])
async def test_a_build_under_gvisor_is_ended_that(
    name: str,
    docker_base: DockerBase,
    docker_runtime: str,
    open_tmp_path: Path,
    tmp_path: Path,
    environment_id: str,
) -> None:
    await under_any_kernel.test_a_build_is_ended_that(
        name, docker_base, docker_runtime, open_tmp_path, tmp_path, environment_id
    )
