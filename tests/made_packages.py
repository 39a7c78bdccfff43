"""Packages made on the spot: a wheel, and a source whose build runs what a test wants."""

import base64
import hashlib
import io
import tarfile
import textwrap
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_BACKEND = """
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    module = ""
{at_build}
    files = {{
        "{name}.py": module,
        "{name}-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n",
        "{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }}
    record = "".join(f"{{path}},,\\n" for path in files)
    with zipfile.ZipFile(f"{{directory}}/{name}-1.0-py3-none-any.whl", "w") as archive:
        for path, text in {{**files, "{name}-1.0.dist-info/RECORD": record}}.items():
            archive.writestr(path, text)
    return "{name}-1.0-py3-none-any.whl"
"""


def wheel(
    directory: Path, *, name: str = "tiny", version: str = "1.0", module: str = "def main():\n    return 5\n"
) -> Path:
    """A wheel of one module, with a command that runs its `main`."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": module,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(member, text)
    return path


@dataclass(frozen=True)
class Member:
    """One of a wheel's files, as its archive has it."""

    content: str | bytes
    mode: int = 0o644  # with the file type's bits, where it is not a plain file


def wheel_of(directory: Path, members: Mapping[str, Member], *, name: str, recorded: bool = True) -> Path:
    """A wheel of these members, whatever they are. `recorded`: they stand in its RECORD, which else is empty."""
    info = f"{name}-1.0.dist-info"
    own = {
        f"{info}/METADATA": Member(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"),
        f"{info}/WHEEL": Member("Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        f"{info}/RECORD": Member("".join(f"{path},,\n" for path in members) if recorded else ""),
    }
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, about in {**own, **members}.items():
            entry = zipfile.ZipInfo(member)
            entry.external_attr = about.mode << 16
            archive.writestr(entry, about.content, zipfile.ZIP_DEFLATED)
    return path


def sdist(directory: Path, *, at_build: str = "", name: str = "fromsource") -> Path:
    """A source with a build backend of its own, which needs nothing. `at_build` runs when it is built; what it leaves in
    `module` is the source of the module."""
    backend = _BACKEND.format(name=name, at_build=textwrap.indent(textwrap.dedent(at_build), "    "))
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\n',
        "backend.py": backend,
    }
    path = directory / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{member}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
