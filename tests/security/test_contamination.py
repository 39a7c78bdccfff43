"""A canary: one session marks whatever it can, and no other finds a mark of it; nor any secret of the server."""

import json
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.made_index import made_index
from tests.made_packages import sdist
from tests.security import canary
from tests.servers import BACKENDS, BASE_IMAGES, Server, Session, require, running

SOURCE = Path(canary.__file__).read_text()
OWN_SOCKET = "socket /run/kodou/s"
MAY_WRITE = {"/tmp", "/dev/shm"}
# What code can leave in a sandbox at all: a search of the same sandbox finds each.
KINDS = {
    *("file", "memory", "process", "descriptor", "tcp", "udp", "socket file", "abstract socket"),
    *("shm", "queue", "semaphore", "mqueue"),
}


def mark() -> str:
    return f"canary{secrets.token_hex(12)}"


BUILD_MARK = mark()
AT_BUILD = f"""
names = {{"__name__": "canary"}}
exec({SOURCE!r}, names)
{{work}}
found = names["search"]([{canary.pattern(BUILD_MARK)!r}], {canary.key_of(BUILD_MARK)}, [1, 1])
module = "found = " + repr(found)
"""
PLANT = f"""
names["plant"]("".join({list(BUILD_MARK)!r}))
import os, shutil, subprocess, sys
for place in ("/build", "/build/files", "/opt/kodou/env", "/opt/kodou/lib", "/run", "/run/kodou-index", "/usr/lib"):
    names["_leaves_file"](place, "".join({list(BUILD_MARK)!r}))
if os.fork() == 0:
    os.setsid()
    for number in range(100):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)  # who waits for the end of its output does not wait for it
    os.execvp("sleep", ["sleep", "300"])
"""


@pytest.fixture(scope="module")
def server_secret() -> str:
    return mark()


@pytest.fixture(scope="module", params=BACKENDS)
def server(
    request: pytest.FixtureRequest, server_secret: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    require(request.param)
    planter = partial(sdist, name="planter", at_build=AT_BUILD.replace("{work}", PLANT))
    seeker = partial(sdist, name="seeker", at_build=AT_BUILD.replace("{work}", ""))
    with made_index(tmp_path_factory.mktemp("index"), planter, seeker) as index:
        bases = json.dumps(json.loads(BASE_IMAGES)[:1])
        settings = {"KODOU_INDEX_URL": index.url, "KODOU_BASE_IMAGES": bases, "SECRET_OF_THE_SERVER": server_secret}
        with running(request.param, **settings) as found:
            yield found


def inside(session: Session, expression: str) -> Any:
    """The value of an expression of `canary`'s names, in a session."""
    loaded = "import sys\nnames = sys.modules.setdefault('canary', type(sys)('canary')).__dict__\n"
    statements = f"{loaded}'plant' in names or exec({SOURCE!r}, names)\nresult = eval({expression!r}, names)"
    expression = f"(lambda names: (exec({statements!r}, names), names['result'])[1])({{}})"
    return session.value(["builtins", "eval"], expression)


def searched(session: Session, patterns: list[str], *, key: int = 1, ports: list[int] | None = None) -> list[str]:
    found: list[str] = inside(session, f"search({patterns!r}, {key}, {ports or [1, 1]!r})")
    return found


@pytest.fixture(scope="module")
def planted(server: Server) -> Iterator[tuple[Session, str, dict[str, Any]]]:
    """A session that left marks, the mark, and what `canary.plant` told."""
    session, chosen = server.session("ada"), mark()
    yield session, chosen, inside(session, f"plant({chosen!r})")
    session.close()


def test_what_a_session_leaves_is_found_by_itself(planted: tuple[Session, str, dict[str, Any]]) -> None:
    session, chosen, told = planted
    assert set(told["kinds"]) == KINDS
    found = searched(session, [canary.pattern(chosen)], key=canary.key_of(chosen), ports=told["ports"])
    assert set(found) == KINDS | {OWN_SOCKET}


def test_it_can_leave_files_in_memory_only(planted: tuple[Session, str, dict[str, Any]]) -> None:
    assert set(planted[2]["places"]) == MAY_WRITE


@pytest.mark.parametrize("owner", ["bob", "ada"])
def test_no_other_session_finds_it(server: Server, planted: tuple[Session, str, dict[str, Any]], owner: str) -> None:
    _, chosen, told = planted
    other = server.session(owner)
    try:
        found = searched(other, [canary.pattern(chosen)], key=canary.key_of(chosen), ports=told["ports"])
        assert found == [OWN_SOCKET]
    finally:
        other.close()


def test_nothing_of_a_session_is_left_to_later_ones(server: Server) -> None:
    chosen = mark()
    first = server.session("ada")
    told = inside(first, f"plant({chosen!r})")
    first.close()
    later = [server.session(owner) for owner in ("bob", "ada")]
    try:
        for session in later:
            found = searched(session, [canary.pattern(chosen)], key=canary.key_of(chosen), ports=told["ports"])
            assert found == [OWN_SOCKET]
    finally:
        for session in later:
            session.close()


def test_no_secret_of_the_server_is_inside(server: Server, server_secret: str) -> None:
    own, other = server.session("bob"), server.session("ada")
    try:
        keys = [path.read_bytes().strip() for path in (server.data_dir / "keys").rglob("*") if path.is_file()]
        # Not its own session's id: a call's body may name it, and it is of no use without its owner's API id.
        tokens = [server.key(owner)[each] for owner in ("ada", "bob") for each in ("secret", "api_id")] + [other.id]
        others = {path.name for path in (server.data_dir / "run").iterdir()}
        assert keys
        assert len(others) >= 2
        secret = [server_secret, *keys, *tokens, *others]
        # (An own run directory's name stands in the list of mounts, which is not searched for files' contents.)
        assert searched(own, [canary.pattern(each) for each in secret if len(each) > 8]) == [OWN_SOCKET]
        for path in (server.data_dir, Path("/var/run/docker.sock"), Path("/run/docker.sock"), Path("/run/containerd")):
            assert inside(own, f"os.path.exists({str(path)!r})") is False
    finally:
        own.close()
        other.close()


def test_what_a_build_leaves_no_other_build_and_no_session_finds(server: Server) -> None:
    planting = server.session("ada", dependencies=["planter"])
    assert {"memory", "process", "file"} <= set(planting.value("planter.found"))
    planting.close()
    seeking = server.session("bob", dependencies=["seeker"])
    try:
        found = [each for each in seeking.value("seeker.found") if not each.startswith("socket /run/kodou")]
        assert set(found) <= {"tcp"}  # a build from source has the way to its index there
        assert searched(seeking, [canary.pattern(BUILD_MARK)], key=canary.key_of(BUILD_MARK)) == [OWN_SOCKET]
    finally:
        seeking.close()
