"""What every store of images promises of builds. (Of each kind there is: one of the engine's, one of directories.)"""

import hashlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.sandboxes.backend import BuildOrder, Image, Interpreter, SandboxBackend
from tests.made_packages import wheel
from tests.sandbox_calls import running

pytestmark = pytest.mark.anyio

STARTED = """
import pathlib
pathlib.Path(__file__).with_name("ran-at-build").touch()
"""
WHOLE = """
import os, sys, importlib.util
packages = next(path for path in sys.path if path.endswith("site-packages"))
result = []
for parent, _, names in os.walk(packages):
    for name in names:
        source = os.path.join(parent, name)
        if not name.endswith(".py"):
            continue
        cached = importlib.util.cache_from_source(source)
        with open(cached, "rb") as file:
            magic, flags, mtime, size = (file.read(4) for _ in range(4))
        status = os.stat(source)
        fits = int.from_bytes(mtime, "little") == int(status.st_mtime) and int.from_bytes(size, "little") == status.st_size
        if magic != importlib.util.MAGIC_NUMBER or any(flags) or not fits:
            result.append(source)
"""


@pytest.fixture(
    params=[
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
    ]
)
def backend(request: pytest.FixtureRequest) -> SandboxBackend:
    found: SandboxBackend = request.getfixturevalue(f"{request.param}_backend")
    return found


@pytest.fixture
async def made(backend: SandboxBackend) -> AsyncIterator[list[Image]]:
    """Images that go away with the test."""
    images: list[Image] = []
    yield images
    for image in images:
        await backend.images.remove(image)


def order(interpreter: Interpreter, *files: Path) -> BuildOrder:
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return BuildOrder(f"test-{secrets.token_hex(6)}", interpreter, files, False, {}, 120, 16_384, hashes=hashes)


async def build(backend: SandboxBackend, order: BuildOrder, made: list[Image]) -> tuple[Image, list[str]]:
    """The image, and the packages that were installed for it."""
    events = [event async for event in backend.images.build(order)]
    image = await backend.images.find(order.environment_id)
    assert image is not None
    made.append(image)
    return image, [event.package for event in events if event.package]


async def test_what_an_environment_has_already_is_not_installed_again(
    backend: SandboxBackend, made: list[Image], tmp_path: Path
) -> None:
    interpreter = (await backend.images.interpreters())[0]
    one = wheel(tmp_path, name="one", module="def main():\n    return 1\n")
    two = wheel(tmp_path, name="two", module="import one\ndef main():\n    return one.main() + 1\n")
    below, packages = await build(backend, order(interpreter, one), made)
    assert packages == ["one"]
    upon, packages = await build(backend, order(interpreter, one, two), made)
    assert packages == ["two"]
    assert upon.size_bytes > below.size_bytes
    async with running(backend, below) as calls:
        assert await calls.run("import importlib.util; result = importlib.util.find_spec('two')") is None
    # It stands by itself: what it was built upon may go.
    assert await backend.images.remove(below) is True
    async with running(backend, upon) as calls:
        assert await calls.run("import two; result = two.main()") == 2
        assert await calls.run("import subprocess; result = subprocess.run(['two']).returncode") == 2
        assert await calls.run(WHOLE) == []  # bytecode that is there and that the interpreter takes
        names = "from importlib.metadata import distributions; result = sorted(each.name for each in distributions())"
        assert await calls.run(names) == ["one", "two"]


async def test_nothing_of_what_is_there_runs_when_something_is_built_upon_it(
    backend: SandboxBackend, made: list[Image], tmp_path: Path
) -> None:
    interpreter = (await backend.images.interpreters())[0]
    starter = wheel(tmp_path, name="sitecustomize", module=STARTED)
    plain = wheel(tmp_path, name="plain")
    await build(backend, order(interpreter, starter), made)
    upon, packages = await build(backend, order(interpreter, starter, plain), made)
    assert packages == ["plain"]
    async with running(backend, upon) as calls:
        seen = "import os, plain; result = sorted(os.listdir(os.path.dirname(plain.__file__)))"
        listed = await calls.run(seen)
        assert isinstance(listed, list)
        assert "sitecustomize.py" in listed
        assert "ran-at-build" not in listed
