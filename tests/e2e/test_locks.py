"""An environment's lock, and the same environment made from it on another server with a data directory of its own."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.made_index import MadeIndex, made_index
from tests.made_packages import sdist, wheel
from tests.servers import BACKENDS, Server, Session, require, running

SETUP = "/environment/python/setup"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MadeIndex]:
    """With a wheel called `tiny` and a source called `fromsource`."""
    source = functools.partial(sdist, at_build='module = "def main():\\n    return 6\\n"')
    with made_index(tmp_path_factory.mktemp("index"), wheel, source) as made:
        yield made


@pytest.fixture(scope="module", params=BACKENDS)
def servers(request: pytest.FixtureRequest, index: MadeIndex) -> Iterator[tuple[Server, Server]]:
    require(request.param)
    with (
        running(request.param, KODOU_INDEX_URL=index.url) as here,
        running(request.param, KODOU_INDEX_URL=index.url) as there,
    ):
        yield here, there


def detail_of(session: Session) -> dict[str, Any]:
    id = session.setup["environment"]["id"]
    return dict(session.client.get(f"/environment/python/{id}").json())


def test_a_lock_makes_the_same_environment_on_another_server(servers: tuple[Server, Server]) -> None:
    here, there = servers
    first = here.session(dependencies=["tiny", "fromsource"])
    lock = detail_of(first)["lock"]
    second = there.session(lock=lock, ttl=60)
    assert second.setup["environment"]["lock"] == "exact"
    for member in ("id", "version", "packages"):
        assert second.setup["environment"][member] == first.setup["environment"][member]
    assert detail_of(second)["lock"] == lock
    assert [second.value("tiny.main"), second.value("fromsource.main")] == [5, 6]
    assert there.session(lock=lock).setup["environment"]["reused"] is True


def test_a_lock_tells_versions_hashes_base_interpreter_and_runner(servers: tuple[Server, Server]) -> None:
    session = servers[0].session(dependencies=["tiny"])
    lock = detail_of(session)["lock"]
    assert (lock["version"], lock["language"], lock["id"]) == (1, "python", session.setup["environment"]["id"])
    assert lock["python"] == session.value("platform.python_version")
    assert lock["base"].startswith("sha256:")
    assert len(lock["base"]) == len("sha256:") + 64
    assert lock["runner"].startswith("0.")
    assert json.loads(servers[0].kodou("images", "show", lock["id"], "--lock")) == lock
    (package,) = lock["packages"]
    assert (package["name"], package["version"], len(package["sha256"])) == ("tiny", "1.0", 64)


def test_what_the_index_has_not_and_what_was_changed_is_refused(servers: tuple[Server, Server], tmp_path: Path) -> None:
    here, _ = servers
    lock = detail_of(here.session(dependencies=["tiny"]))["lock"]
    changed = {**lock, "packages": [{**lock["packages"][0], "sha256": "0" * 64}]}
    refused = here.client().post(SETUP, json={"lock": changed})
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (422, "invalid_request", "lock.id")
    with made_index(tmp_path) as empty, running(here.backend, KODOU_INDEX_URL=empty.url) as elsewhere:
        missing = elsewhere.client().post(SETUP, json={"lock": lock})
        assert (missing.status_code, missing.json()["code"]) == (422, "dependency_unresolvable")


def test_a_setup_says_what_it_had_to_make_and_how_long_that_took(servers: tuple[Server, Server]) -> None:
    client = servers[0].client()
    replies = [client.post(SETUP, json={"dependencies": ["fromsource"]}) for _ in range(2)]
    assert [reply.headers["kodou-cold"] for reply in replies] == ["environment", "session"]
    assert [reply.json()["cold"] for reply in replies] == ["environment", "session"]
    named = [[part.partition(";")[0] for part in reply.headers["server-timing"].split(", ")] for reply in replies]
    assert named == [["auth", "queue", "build", "start"], ["auth", "start"]]
