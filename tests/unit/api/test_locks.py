import json
from typing import Any

import httpx
import pytest

from orchestrator.environments.lock import LockedFile, id_of
from orchestrator.environments.lock_document import LockDocument

pytestmark = pytest.mark.anyio

URL = "/environment/python/setup"
FILE = LockedFile("numpy", "2.4.6", "numpy-2.4.6-py3-none-any.whl", "", "a" * 64, None, is_sdist=False)


def lock(**more: Any) -> dict[str, Any]:
    """The members of a good lock, changed."""
    platform = "x86_64-manylinux_2_36"
    document = LockDocument(
        environment_id=id_of([FILE], "d" * 64, "3.12.4", platform),
        language="python",
        python="3.12.4",
        platform=platform,
        base=f"sha256:{'b' * 64}",
        runner="0.1.0+0123456789ab",
        built_on="d" * 64,
        index="https://pypi.org/simple",
        files=(FILE,),
    )
    return {**document.members(), **more}


async def post(api: Any, body: object) -> httpx.Response:
    return await api.client.post(URL, json=body, headers=await api.bearer())  # type: ignore[no-any-return]


async def test_a_lock_stands_in_for_version_and_dependencies_and_the_rest_stays(api: Any) -> None:
    reply = await post(api, {"lock": lock(), "ttl": 60, "env": {"A": "b"}})
    assert reply.status_code == 200
    (document,) = api.environments.remade
    assert (document.members(), api.environments.asked) == (lock(), [])
    assert (api.sessions.options[0].ttl_s, api.sessions.options[0].env) == (60, {"A": "b"})


async def test_the_reply_with_an_environments_lock_is_as_good_as_the_lock(api: Any) -> None:
    api.environments.document = json.dumps(lock())
    described = await api.client.get(f"/environment/python/{api.environment.id}", headers=await api.bearer())
    assert (await post(api, {"lock": described.json()})).status_code == 200
    (document,) = api.environments.remade
    assert document.members() == lock()


async def test_the_reply_says_whether_the_environment_is_the_very_same(api: Any) -> None:
    assert (await post(api, {"lock": lock()})).json()["environment"]["lock"] == "packages"
    api.environments.remade.clear()
    exact = LockDocument.read(lock())
    api.environments.build = api.build()
    api.environments.build.environment_id = exact.environment_id
    assert (await post(api, {"lock": lock()})).json()["environment"]["lock"] == "exact"
    assert "lock" not in (await post(api, {})).json()["environment"]


@pytest.mark.parametrize("beside", [{"version": "3"}, {"dependencies": ["numpy"]}, {"refresh": True}])
async def test_a_lock_beside_what_it_stands_for_is_refused(api: Any, beside: dict[str, object]) -> None:
    reply = await post(api, {"lock": lock(), **beside})
    assert (reply.status_code, reply.json()["field"]) == (422, "lock")
    assert not api.environments.remade


async def test_members_with_their_defaults_ask_for_nothing(api: Any) -> None:
    nothing = {"version": None, "dependencies": [], "refresh": False}
    assert (await post(api, {"lock": lock(), **nothing})).status_code == 200


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (None, "lock"),
        ({}, "lock.version"),
        ([], "lock"),
        ("lock-version = '1.0'", "lock"),
        (lock(version=2), "lock.version"),
        (lock(version=True), "lock.version"),
        (lock(version="1"), "lock.version"),
        (lock(options=["--no-index"]), "lock.options"),
        (lock(id=None), "lock.id"),
        (lock(id="py3.12-000000000000000000000000"), "lock.id"),
        (lock(python=3.12), "lock.python"),
        (lock(python="3.12.5"), "lock.id"),
        (lock(platform="x" * 101), "lock.platform"),
        (lock(packages={}), "lock.packages"),
        (lock(packages=[{}]), "lock.packages[0].name"),
        (lock(packages=[{**lock()["packages"][0], "url": "https://evil.example"}]), "lock.packages[0].url"),
        (lock(packages=[{**lock()["packages"][0], "sha256": "a"}]), "lock.packages[0].sha256"),
        (lock(packages=[{**lock()["packages"][0], "filename": "../x.whl"}]), "lock.packages[0].filename"),
        (lock(packages=lock()["packages"] * 2), "lock.packages[1].name"),
        (lock(packages=lock()["packages"] * 2001), "lock.packages"),
        (lock(packages=[]), "lock.id"),
        ({"lock": lock(), "surplus": 1}, "lock"),
        ({"lock": None}, "lock"),
        ({"lock": {"lock": lock()}}, "lock.version"),
        ({"id": "e", "lock": lock(python="3.12.5")}, "lock.id"),
    ],
)
async def test_a_lock_that_is_none_or_was_changed_is_refused_naming_the_member(
    api: Any, given: object, field: str
) -> None:
    reply = await post(api, {"lock": given})
    assert (reply.status_code, reply.json()["code"], reply.json()["field"]) == (422, "invalid_request", field)
    assert reply.json()["detail"].startswith(f"{field}: ")
    assert not api.environments.remade


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (None, "is never null: leave it out"),
        ("x", "must be an object"),
        ({"lock": lock(), "{b}": 1, "a": 1}, "unknown members: a, {b}"),
    ],
)
async def test_what_is_no_lock_is_refused_in_plain_words(api: Any, given: object, wrong: str) -> None:
    assert (await post(api, {"lock": given})).json()["detail"] == f"lock: {wrong}"


async def test_an_environment_of_an_older_kodou_has_no_lock_to_give(api: Any) -> None:
    api.environments.document = ""
    reply = await api.client.get(f"/environment/python/{api.environment.id}", headers=await api.bearer())
    assert reply.json()["lock"] is None
