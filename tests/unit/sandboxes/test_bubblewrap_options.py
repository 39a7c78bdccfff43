"""What sandboxes are started with under bubblewrap."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.sandboxes.bubblewrap import options as options
from orchestrator.sandboxes.bubblewrap.options import Host, Mount

HOST = Host(
    bwrap="/usr/bin/bwrap",
    links={"/bin": "usr/bin", "/lib": "usr/lib"},
    directories=["/lib64"],
    masked_files=["/proc/kcore"],
    masked_directories=["/proc/acpi"],
    etc=Path("/data/tools/etc"),
    can_disable_userns=True,
    landlock=True,
)


def session(host: Host = HOST, *, prefix: Path | None = None, share: int | None = None) -> list[str]:
    return options.session_argv(
        host,
        env=Path("/data/e/env"),
        lib=Path("/data/lib"),
        link=Path("/data/run/1"),
        prefix=prefix,
        disk_mb=16,
        share=share,
    )


def builder(host: Host = HOST) -> list[str]:
    mounts = [Mount(Path("/data/b/env"), "/opt/kodou/env", writable=True), Mount(Path("/data/b/build"), "/build")]
    return options.builder_argv(host, ["/usr/bin/python3", "-V"], mounts=mounts, prefix=None, tmp_mb=16)


def has(arguments: list[str], *words: str) -> bool:
    """The words stand there, one after the other."""
    return any(arguments[start : start + len(words)] == list(words) for start in range(len(arguments)))


@pytest.mark.parametrize("namespace", ["user", "pid", "net", "ipc", "uts", "cgroup-try"])
@pytest.mark.parametrize("arguments", [session(), builder(), options.trial_argv(HOST)])
def test_every_sandbox_has_namespaces_of_its_own(arguments: list[str], namespace: str) -> None:
    assert f"--unshare-{namespace}" in arguments
    assert "--share-net" not in arguments


@pytest.mark.parametrize(
    "words",
    [
        ("--cap-drop", "ALL"),
        ("--disable-userns",),
        ("--new-session",),
        ("--as-pid-1",),
        ("--clearenv",),
        ("--hostname", "sandbox"),
        ("--uid", "1000"),
        ("--gid", "1000"),
        ("--ro-bind", "/usr", "/usr"),
        ("--symlink", "usr/bin", "/bin"),
        ("--ro-bind", "/lib64", "/lib64"),
        ("--ro-bind", "/data/tools/etc/passwd", "/etc/passwd"),
        ("--ro-bind", "/proc/sys", "/proc/sys"),
        ("--ro-bind", "/dev/null", "/proc/kcore"),
        ("--ro-bind", "/data/tools/etc/empty", "/proc/acpi"),
        ("--dev", "/dev", "--mqueue", "/dev/mqueue", "--remount-ro", "/dev"),
        ("--perms", "1777", "--size", "16777216", "--tmpfs", "/tmp"),
        ("--perms", "1777", "--size", "16777216", "--tmpfs", "/dev/shm"),
        ("--setenv", "HOME", "/tmp"),
        ("--setenv", "PATH", "/opt/kodou/env/bin:/usr/local/bin:/usr/bin:/bin"),
    ],
)
@pytest.mark.parametrize("arguments", [session(), builder()])
def test_every_sandbox_has(arguments: list[str], words: tuple[str, ...]) -> None:
    assert has(arguments, *words)


@pytest.mark.parametrize("arguments", [session(), builder()])
def test_the_root_is_made_read_only_after_all_else_is_mounted(arguments: list[str]) -> None:
    last_mount = max(index for index, word in enumerate(arguments) if word in {"--ro-bind", "--bind", "--tmpfs"})
    assert arguments.index("/", last_mount) > last_mount
    assert has(arguments[last_mount:], "--remount-ro", "/")


def test_a_session_may_write_nothing_of_the_host() -> None:
    assert "--bind" not in session()
    assert "--dev-bind" not in session()
    for source, target in (
        ("/data/e/env", "/opt/kodou/env"),
        ("/data/lib", "/opt/kodou/lib"),
        ("/data/run/1", "/run/kodou"),
    ):
        assert has(session(), "--ro-bind", source, target)


def test_a_session_runs_the_runner_and_outlives_the_server() -> None:
    unruled = session(replace(HOST, landlock=False))
    command = unruled[unruled.index("--") + 1 :]
    assert command == [
        *("/opt/kodou/lib/python/bin/python", "-I"),
        *("/opt/kodou/lib/runner/boot.py", "/run/kodou/s", "/opt/kodou/env"),
    ]
    assert "--die-with-parent" not in session()


def test_landlock_allows_a_session_what_it_was_given_and_no_more() -> None:
    rules = [word for word in session(prefix=Path("/opt/python")) if word.startswith(("read=", "write="))]
    given = ("/usr", "/lib64", "/etc", "/proc", "/dev", "/opt/kodou/env", "/opt/kodou/lib", "/run/kodou", "/opt/python")
    assert rules == [*(f"read={path}" for path in given), "write=/tmp", "write=/dev/shm", "write=/dev/mqueue"]


def test_landlock_stands_before_a_builders_command() -> None:
    command = builder()[builder().index("--") + 1 :]
    assert command[:4] == ["/usr/bin/python3", "-I", "-S", "/opt/kodou/lib/runner/landlock.py"]
    rules = command[4 : command.index("--")]
    assert {"read=/build", "write=/tmp", "write=/dev/shm", "write=/opt/kodou/env"} < set(rules)
    assert command[command.index("--") + 1 :] == ["/usr/bin/python3", "-V"]


def test_a_builder_may_write_the_environment_only_and_dies_with_the_server() -> None:
    arguments = builder(replace(HOST, landlock=False))
    assert has(arguments, "--bind", "/data/b/env", "/opt/kodou/env")
    assert arguments.count("--bind") == 1
    assert has(arguments, "--ro-bind", "/data/b/build", "/build")
    assert arguments.index("--die-with-parent") < arguments.index("--")
    assert arguments[arguments.index("--") + 1 :] == ["/usr/bin/python3", "-V"]


def test_an_old_bubblewrap_is_not_asked_for_what_it_lacks() -> None:
    assert "--disable-userns" not in session(replace(HOST, can_disable_userns=False))


@pytest.mark.parametrize(
    ("interpreter", "prefix"),
    [
        ("/usr/bin/python3.11", None),
        ("/usr/local/bin/python3.12", None),
        ("/opt/python/3.12/bin/python3.12", Path("/opt/python/3.12")),
    ],
)
def test_an_interpreter_outside_of_usr_is_mounted_where_it_is(interpreter: str, prefix: Path | None) -> None:
    assert options.interpreter_prefix(Path(interpreter)) == prefix
    assert has(session(prefix=prefix), "--ro-bind", str(prefix), str(prefix)) is (prefix is not None)


@pytest.mark.parametrize("interpreter", ["/python3", "/bin/python3"])
def test_an_interpreter_that_would_bring_the_whole_host_is_refused(interpreter: str) -> None:
    with pytest.raises(ValueError, match="all of the host"):
        options.interpreter_prefix(Path(interpreter))


@pytest.mark.parametrize(
    ("own_uid", "memory_held", "limits"),
    [
        (True, True, {"nofile": 64, "core": 0, "nproc": 33}),
        (True, False, {"nofile": 64, "core": 0, "nproc": 33, "data": 256 * 1024**2}),
        # Who shares the server's own id must not be limited by what else runs under it.
        (False, True, {"nofile": 64, "core": 0}),
        (False, False, {"nofile": 64, "core": 0, "data": 256 * 1024**2}),
    ],
)
def test_limits_of_a_session(own_uid: bool, memory_held: bool, limits: dict[str, int]) -> None:
    found = options.session_limits(pids=32, nofile=64, memory_mb=256, own_uid=own_uid, memory_held=memory_held)
    assert found == limits


def test_a_builder_may_write_no_file_larger_than_its_disk() -> None:
    limits = options.builder_limits(memory_mb=256, disk_mb=100, own_uid=True, memory_held=True)
    assert limits["fsize"] == 100 * 1024**2
    assert limits["core"] == 0


@pytest.mark.parametrize(("disk_mb", "shm_mb"), [(1, 1), (64, 64), (1024, 64)])
def test_shared_memory_and_files_follow_the_disk_limit(disk_mb: int, shm_mb: int) -> None:
    assert options.tmpfs_files(disk_mb) == {"/tmp": disk_mb * 256, "/dev/shm": shm_mb * 256}


def test_a_shared_sandbox_has_no_user_namespace_but_three_rights_and_is_told_whom_to_become() -> None:
    shared, alone = session(share=2_000_064), session()
    rights = [word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")]
    assert has(shared, *rights)
    assert "--cap-add" not in alone
    assert "share=2000064" in shared
    own = {"--unshare-user", "--disable-userns", "--uid", "--gid", "1000"}
    passable = ["--dir", "/opt", "--dir", "/opt/kodou", "--dir", "/run"]
    assert has(shared, *passable)
    added = {*rights, *passable, "share=2000064"}
    assert [word for word in shared if word not in added] == [word for word in alone if word not in own]
