from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.environments.lock import Lock
from orchestrator.environments.pins import narrowed, pin
from orchestrator.errors import DependencyUnresolvable
from orchestrator.packages.index import Index
from tests.unit.environments.fakes import interpreter, lock_text, settings_in

HERE = interpreter("3.12.4")
INDEX = Index.of(settings_in(Path("/nowhere")))
FOUND = Lock.parse(lock_text({"a": "1", "b-c": "2"}), HERE, INDEX)
SHA = "0" * 64
BOTH = f'''\
lock-version = "1.0"
created-by = "uv"

[[packages]]
name = "a"
version = "1"
sdist = {{ url = "https://pypi.org/a-1.tar.gz", hashes = {{ sha256 = "{SHA}" }} }}
wheels = [
    {{ url = "https://pypi.org/a-1-cp312-cp312-manylinux_2_28_x86_64.whl", hashes = {{ sha256 = "{SHA}" }} }},
    {{ url = "https://pypi.org/a-1-py3-none-any.whl", hashes = {{ sha256 = "{SHA}" }} }},
]
'''


def test_files_are_found_in_what_the_resolver_wrote() -> None:
    wanted = [replace(file, url="") for file in FOUND.files]
    text = narrowed([lock_text({"b-c": "2", "d": "3"}), lock_text({"a": "1"})], wanted, INDEX)
    assert Lock.parse(text, HERE, INDEX).files == FOUND.files


def test_the_file_is_the_one_that_is_wanted_whatever_else_there_is() -> None:
    for filename in ("a-1-py3-none-any.whl", "a-1.tar.gz"):
        wanted = replace(FOUND.files[0], filename=filename, sha256=SHA, is_sdist=filename.endswith(".gz"))
        lock = Lock.parse(narrowed([BOTH], [wanted], INDEX), HERE, INDEX)
        assert lock.files == (replace(wanted, url=f"https://pypi.org/{filename}"),)


def test_nothing_wanted_is_an_empty_lock() -> None:
    assert Lock.parse(narrowed([], [], INDEX), HERE, INDEX).files == ()


def test_a_file_of_another_hash_is_not_the_one() -> None:
    with pytest.raises(DependencyUnresolvable, match=r"a-1-py3-none-any\.whl"):
        narrowed([lock_text({"a": "1"})], [replace(FOUND.files[0], sha256=SHA)], INDEX)


def test_urls_are_only_taken_from_the_index() -> None:
    with pytest.raises(DependencyUnresolvable, match="neither on the index"):
        narrowed([lock_text({"a": "1"}, host="https://evil.example")], [FOUND.files[0]], INDEX)


def test_a_pin_allows_one_version() -> None:
    assert [pin(file) for file in FOUND.files] == ["a==1", "b-c==2"]
