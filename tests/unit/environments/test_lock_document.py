import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.environments.lock import EMPTY_LOCK, Lock, LockedFile, environment_id, id_of
from orchestrator.environments.lock_document import LockDocument
from orchestrator.environments.pins import pin
from orchestrator.errors import InvalidRequest
from orchestrator.packages.index import Index
from tests.unit.environments.fakes import interpreter, lock_text, settings_in

HERE = interpreter("3.12.4", digest="d" * 64)
INDEX = Index.of(settings_in(Path("/nowhere")))

versions = st.from_regex(
    r"(0|[1-9][0-9]{0,3})(\.(0|[1-9][0-9]{0,3})){0,3}((a|b|rc)[1-9])?(\.post[1-9])?", fullmatch=True
)
names = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,2}", fullmatch=True)


def document(packages: dict[str, str]) -> LockDocument:
    lock = Lock.parse(lock_text(packages), HERE, INDEX)
    return LockDocument.of(environment_id(lock, HERE), lock, HERE, index=INDEX.url)


def refusal(members: dict[str, Any]) -> str | None:
    with pytest.raises(InvalidRequest) as refused:
        LockDocument.read(members)
    assert refused.value.detail.startswith(f"{refused.value.field}: ")
    return refused.value.field


def changed(**package: str) -> dict[str, Any]:
    """The members of a good lock with its second package changed, and the id that fits."""
    members: Any = document({"a": "1.0", "b-c": "2"}).members()
    members["packages"][1].update(package)
    return dict(members)


@given(st.dictionaries(names, versions, max_size=5))
def test_what_is_written_is_read_as_it_was(packages: dict[str, str]) -> None:
    written = document(packages)
    read = LockDocument.read(written.members())
    assert read.members() == written.members()
    assert {file.name: file.version for file in read.files} == packages


def test_the_bare_interpreter_has_a_lock_too() -> None:
    lock = Lock.parse(EMPTY_LOCK, HERE, INDEX)
    written = LockDocument.of(environment_id(lock, HERE), lock, HERE, index=INDEX.url)
    assert LockDocument.read(written.members()).files == ()


def test_it_names_what_is_installed_and_on_what_and_no_place_on_the_web_but_the_index() -> None:
    members = document({"numpy": "2.0"}).members()
    assert set(members) == {
        "version", "id", "language", "python", "platform", "base", "runner", "built_on", "index", "packages"
    }  # fmt: skip
    (package,) = members["packages"]  # type: ignore[misc]
    assert set(package) == {"name", "version", "filename", "sha256"}
    assert (members["version"], members["python"], package["filename"]) == (1, "3.12.4", "numpy-2.0-py3-none-any.whl")


def test_the_order_of_packages_does_not_matter() -> None:
    members: Any = document({"a": "1", "b": "2"}).members()
    turned = LockDocument.read({**members, "packages": members["packages"][::-1]})
    assert turned.members() == members


@pytest.mark.parametrize(
    ("package", "field"),
    [
        ({"filename": "../../etc/passwd"}, "filename"),
        ({"filename": "/etc/b_c-2-py3-none-any.whl"}, "filename"),
        ({"filename": "--index-url=x"}, "filename"),
        ({"filename": "-b_c-2-py3-none-any.whl"}, "filename"),
        ({"filename": "b_c-2-py3-none-any.whl\n"}, "filename"),
        ({"filename": "b_c.whl"}, "filename"),
        ({"filename": "b_c-2.zip.exe"}, "filename"),
        ({"filename": f"b_c-2-{'.'.join('abcdefghi')}-{'.'.join('abcdefghi')}-any.whl"}, "filename"),
        ({"filename": "other-2-py3-none-any.whl"}, "name"),
        ({"filename": "b_c-3-py3-none-any.whl"}, "version"),
        ({"name": "B_C"}, "name"),
        ({"name": "b-c @ https://evil.example/x"}, "name"),
        ({"name": "-r /etc/passwd"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a"}, "name"),
        ({"version": "2\n--index-url https://evil.example"}, "version"),
        ({"version": " 2"}, "version"),
        ({"version": "2.*"}, "version"),
        ({"version": "v2"}, "version"),
        ({"version": "3"}, "version"),
        ({"version": ""}, "version"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"sha256": "a" * 63}, "sha256"),
        ({"sha256": "a" * 64 + "\n"}, "sha256"),
    ],
)
def test_a_package_that_is_no_plain_file_of_the_index_is_refused_naming_the_member(
    package: dict[str, str], field: str
) -> None:
    assert refusal(changed(**package)) == f"lock.packages[1].{field}"


def test_a_package_may_be_there_once() -> None:
    members: Any = document({"a": "1"}).members()
    assert refusal({**members, "packages": members["packages"] * 2}) == "lock.packages[1].name"


@pytest.mark.parametrize("member", ["id", "python", "platform", "built_on"])
def test_a_lock_whose_members_do_not_fit_its_id_is_refused(member: str) -> None:
    members = document({"a": "1"}).members()
    assert refusal({**members, member: f"{members[member]}0"}) == "lock.id"


def test_another_hash_needs_another_id() -> None:
    members = changed(sha256="0" * 64)
    assert refusal(members) == "lock.id"
    lock = Lock.parse(lock_text({"a": "1.0", "b-c": "2"}), HERE, INDEX)
    forged = [lock.files[0], type(lock.files[1])("b-c", "2", "b_c-2-py3-none-any.whl", "", "0" * 64, None, False)]
    members["id"] = id_of(forged, HERE.digest, HERE.version, HERE.platform)
    assert LockDocument.read(members).files[1].sha256 == "0" * 64


odd = st.text(alphabet="aB1-_.+!*/ \n=@:#\u017f", max_size=6)


@given(name=odd, version=odd, stem=odd, suffix=st.sampled_from(["-py3-none-any.whl", ".tar.gz", ".whl", "", "\n"]))
def test_whatever_a_package_says_a_resolver_is_told_a_plain_name_and_version(
    name: str, version: str, stem: str, suffix: str
) -> None:
    file = LockedFile(name, version, f"{stem or name}-{version}{suffix}", "", "a" * 64, None, is_sdist=False)
    lock = Lock("", {}, (file,))
    members = LockDocument.of(environment_id(lock, HERE), lock, HERE, index="").members()
    with suppress(InvalidRequest):
        (read,) = LockDocument.read(members).files
        assert re.fullmatch(r"[a-z0-9-]+==[a-z0-9.!+]+", pin(read), re.ASCII)
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+!-]*", read.filename, re.ASCII)
