import hashlib
import time
from pathlib import Path

import pytest

from orchestrator.environments.lock import EMPTY_LOCK, Lock, compatible, environment_id
from orchestrator.errors import DependencyUnresolvable
from orchestrator.packages.index import Index
from tests.unit.environments.fakes import interpreter, lock_text, settings_in

HERE = interpreter("3.12.4")
INDEX = Index.of(settings_in(Path("/nowhere")))
HOST = "https://files.pythonhosted.org/packages"
SHA = hashlib.sha256(b"").hexdigest()
HEAD = 'lock-version = "1.0"\ncreated-by = "uv"\n'


def file(filename: str, *, host: str = HOST, hashes: str = f'sha256 = "{SHA}"') -> str:
    return f'{{ url = "{host}/{filename}", hashes = {{ {hashes} }} }}'


def package(name: str, *lines: str, version: str = "1.0") -> str:
    return "\n".join(["[[packages]]", f'name = "{name}"', f'version = "{version}"', *lines, ""])


def parse(*packages: str, on: object = HERE) -> Lock:
    return Lock.parse(HEAD + "\n".join(packages), on, INDEX)  # type: ignore[arg-type]


def wheels(*filenames: str) -> str:
    return f"wheels = [{', '.join(map(file, filenames))}]"


def one(**where: str) -> str:
    return f"wheels = [{file('a-1.0-py3-none-any.whl', **where)}]"


def test_an_empty_lock_is_a_bare_interpreter() -> None:
    lock = Lock.parse(EMPTY_LOCK, HERE, INDEX)
    assert (lock.packages, lock.files, lock.from_source) == ({}, (), False)


def test_packages_and_files_are_read() -> None:
    lock = Lock.parse(lock_text({"b": "2", "a-c": "1"}), HERE, INDEX)
    assert lock.packages == {"a-c": "1", "b": "2"}
    assert [each.filename for each in lock.files] == ["a_c-1-py3-none-any.whl", "b-2-py3-none-any.whl"]
    assert not lock.from_source


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["a-1.0-py3-none-any.whl", "a-1.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"], 1),
        (["a-1.0-cp312-cp312-manylinux_2_28_x86_64.whl", "a-1.0-cp312-cp312-manylinux_2_34_x86_64.whl"], 1),
        (["a-1.0-cp313-cp313-manylinux_2_28_x86_64.whl", "a-1.0-cp39-abi3-manylinux1_x86_64.whl"], 1),
        (["a-1.0-cp312-cp312-manylinux_2_39_x86_64.whl", "a-1.0-cp312-cp312-linux_x86_64.whl"], 1),
        (["a-1.0-cp312-cp312-musllinux_1_2_x86_64.whl", "a-1.0-py2.py3-none-any.whl"], 1),
        (["a-1.0-cp312-cp312-manylinux_2_17_aarch64.whl", "a-1.0-cp312-none-any.whl"], 1),
    ],
)
def test_the_best_wheel_for_the_interpreter_is_chosen(offered: list[str], chosen: int) -> None:
    lock = parse(package("a", wheels(*offered)))
    assert [each.filename for each in lock.files] == [offered[chosen]]


def test_tags_follow_the_machine() -> None:
    arm = {str(tag) for tag in compatible(interpreter("3.11.2", platform="aarch64-manylinux_2_28"))}
    assert "cp311-cp311-manylinux_2_28_aarch64" in arm
    assert "cp311-cp311-manylinux2014_aarch64" in arm
    assert "cp311-cp311-manylinux_2_31_aarch64" not in arm
    assert not any("manylinux1" in tag or "x86_64" in tag for tag in arm)
    with pytest.raises(ValueError, match="platform"):
        compatible(interpreter(platform="windows"))


def test_a_wheel_is_preferred_to_source_and_source_to_nothing() -> None:
    sdist = f"sdist = {file('a-1.0.tar.gz')}"
    assert not parse(package("a", sdist, wheels("a-1.0-py3-none-any.whl"))).from_source
    lock = parse(package("a", sdist, wheels("a-1.0-cp27-cp27m-win32.whl")))
    assert lock.from_source
    assert lock.files[0].filename == "a-1.0.tar.gz"
    with pytest.raises(DependencyUnresolvable, match="No wheel found"):
        parse(package("a", wheels("a-1.0-cp27-cp27m-win32.whl")))


def test_markers_are_those_of_the_interpreter() -> None:
    elsewhere = package("a", "marker = \"sys_platform == 'win32'\"", wheels("a-1.0-py3-none-any.whl"))
    here = package("b", "marker = \"python_version >= '3.12'\"", wheels("b-1.0-py3-none-any.whl"))
    assert set(parse(elsewhere, here).packages) == {"b"}
    assert set(parse(elsewhere, here, on=interpreter("3.11.9")).packages) == set()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (package("a", 'vcs = { type = "git", url = "https://pypi.org/x", commit-id = "0" }'), "VCS"),
        (package("a", 'directory = { path = "/etc" }'), "directory"),
        (package("a", f'archive = {{ url = "{HOST}/a.zip", hashes = {{ sha256 = "{SHA}" }} }}'), "archive"),
        (
            package("a", f'wheels = [{{ path = "/etc/a-1.0-py3-none-any.whl", hashes = {{ sha256 = "{SHA}" }} }}]'),
            "URL",
        ),
        (package("a", one(hashes="")), "hashes"),
        (package("a", one(hashes="md5 = 0")), "cannot be used"),
        (package("a", one(hashes='md5 = "0"')), "SHA-256"),
        (package("a", one(hashes='sha256 = "../x"')), "SHA-256"),
        (package("a", one(host="https://evil.example")), "hosts"),
        (package("a", one(host="http://files.pythonhosted.org")), "hosts"),
        (package("a", one(host="file:///etc")), "hosts"),
        (package("a", one(host="https://u:p@pypi.org")), "hosts"),
        (package("a", one(host="https://pypi.org:8443")), "hosts"),
        (package("a", one(host="https://[")), "URL"),
        (package("a", wheels("b-1.0-py3-none-any.whl")), "name"),
        (package("a", wheels("a-2.0-py3-none-any.whl")), "ersion"),
        (package("a", wheels("a.whl")), "filename"),
        (package("a", wheels("..%2f..%2fa-1.0-py3-none-any.whl")), "file ?name"),
        (package("a", wheels("-rf-1.0-py3-none-any.whl")), "file ?name"),
        (package("a", wheels(f"a-1.0-{'.'.join('abcdefghi')}-{'.'.join('abcdefghi')}-any.whl")), "tags"),
        (
            package(
                "a",
                f'wheels = [{{ name = "a-1.0-py3-none-any.whl", url = "{HOST}/x", hashes = {{ sha256 = "{SHA}" }} }}]',
            ),
            "URL's own",
        ),
        (package("a", f"sdist = {file('a-1.0.exe')}"), "filename"),
        (package("a", wheels("a-1.0-py3-none-any.whl")) * 2, "Multiple"),
        (package("a", 'requires-python = ">=3.99"', wheels("a-1.0-py3-none-any.whl")), "Python version"),
        (package("a", 'marker = "extra == 5"', wheels("a-1.0-py3-none-any.whl")), "cannot be used"),
        (package("A b", wheels("a-1.0-py3-none-any.whl")), "name"),
        ("packages = 5", "packages"),
        ("packages = [", "TOML"),
        ("x = " + "9" * 5000, "TOML"),
        ("\x00", "TOML"),
        (package("a", "# \N{SNOWMAN}", wheels("a-1.0-py3-none-any.whl")) + 'x = "\ud800"', "cannot be used"),
    ],
)
def test_what_is_not_a_hashed_file_of_an_allowed_host_is_refused(entry: str, reason: str) -> None:
    with pytest.raises(DependencyUnresolvable, match=reason) as caught:
        parse(entry)
    assert caught.value.detail.isascii()
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 600


@pytest.mark.parametrize(
    "text",
    [
        "a." * 2_000_000 + "b = 1",
        '"a".' * 1_000_000 + "b = 1",
        "x = {a = '\"', " + "a." * 100_000 + "b = '\"'}",
        'x = """\n' + "a.b." * 100_000 + '"""',
        "x = " + "[" * 4_000_000,
        "x = " + "{a=" * 1_000_000,
        '"' * 4_000_000,
        'x = "' + "\\n" * 2_000_000 + '"',
        HEAD + '[[packages]]\nmarker = "' + "(" * 4_000_000 + '"',
        HEAD
        + package("a", f'wheels = [{{ url = "{HOST}/a-1.0-{"%2e".join("a" * 300)}-{".".join("b" * 300)}-any.whl" }}]'),
        "x" * (4 * 1024 * 1024 + 1),
    ],
    ids=["dotted", "quoted", "hidden", "multiline", "arrays", "tables", "quotes", "escapes", "marker", "tags", "long"],
)
def test_a_hostile_lock_takes_no_time_to_refuse(text: str) -> None:
    started = time.process_time()
    with pytest.raises(DependencyUnresolvable):
        Lock.parse(text, HERE, INDEX)
    assert time.process_time() - started < 10  # tomllib alone would take hours over some of these


def test_an_environment_is_named_by_what_is_installed_on_what() -> None:
    lock = Lock.parse(lock_text({"a": "1"}), HERE, INDEX)
    again = Lock.parse("# written another day\n" + lock_text({"a": "1"}), HERE, INDEX)
    newer = Lock.parse(lock_text({"a": "2"}), HERE, INDEX)
    id = environment_id(lock, HERE)
    assert id == environment_id(again, HERE)
    assert id.startswith("py3.12-")
    assert len(id) == len("py3.12-") + 24
    others = {
        environment_id(newer, HERE),
        environment_id(lock, interpreter("3.12.5")),
        environment_id(lock, interpreter("3.12.4", digest="rebuilt")),
        environment_id(lock, interpreter("3.12.4", platform="x86_64-manylinux_2_28")),
    }
    assert len(others | {id}) == 5
