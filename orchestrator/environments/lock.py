"""A lock (PEP 751) and what one interpreter installs of it. The text is hostile: a sandbox may have made it. Pure."""

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from packaging.markers import InvalidMarker, UndefinedComparison, UndefinedEnvironmentName
from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock, PylockSelectError, PylockValidationError
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from orchestrator.errors import DependencyUnresolvable
from orchestrator.packages.index import Index
from orchestrator.sandboxes.backend import Interpreter

MAX_LOCK_BYTES = 4 * 1024 * 1024
MAX_PACKAGES = 2000
EMPTY_LOCK = 'lock-version = "1.0"\ncreated-by = "kodou"\npackages = []\n'

# tomllib takes quadratic time over a dotted key (80 KB: 45 s), so a lock may only look as uv writes it: basic strings on
# one line, and outside of them few dots in a row.
_COMMENT_LINE = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_BASIC_STRING = re.compile(r'"(?:[^"\\\n]|\\.){0,2000}"')
_ODD_SHAPE = re.compile(r"[\"']|(?:\.[^\n=,\[\]{}.]*){4}")
_MAX_TAGS = 64  # of one wheel: "py2.py3-none-any" has two

SHA256 = re.compile(r"[0-9a-f]{64}")
_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}")
_PLATFORM = re.compile(r"(x86_64|aarch64)-manylinux_2_([0-9]{1,2})")
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file to install. `size` in bytes as the index states it, if it does."""

    name: str  # normalised
    version: str
    filename: str
    url: str
    sha256: str  # 64 hex
    size: int | None
    is_sdist: bool


@dataclass(frozen=True, slots=True)
class Lock:
    text: str
    packages: Mapping[str, str]  # normalised name -> exact version
    files: tuple[LockedFile, ...]  # one a package, sorted by name

    @property
    def from_source(self) -> bool:
        """A build backend has to run."""
        return any(file.is_sdist for file in self.files)

    @classmethod
    def parse(cls, text: str, interpreter: Interpreter, index: Index) -> "Lock":
        """Choose one file a package for `interpreter`, wheels before sdists.

        Raises `DependencyUnresolvable`: not a lock, not for this interpreter, or something in it is neither a wheel nor
        an sdist, has no SHA-256, or lies on a host that is not allowed.
        """
        try:
            files = sorted(_chosen(text, interpreter, index), key=lambda file: file.name)
        except (UnfitLock, PylockValidationError, PylockSelectError) as exc:
            raise unusable(exc) from exc
        return cls(text=text, packages={file.name: file.version for file in files}, files=tuple(files))


class UnfitLock(Exception):
    """What is wrong with a lock, to be told as `unusable` does."""


def unusable(error: Exception) -> DependencyUnresolvable:
    return DependencyUnresolvable(f"the lock cannot be used: {ascii(str(error))[1:-1][:500]}")


def environment_id(lock: Lock, interpreter: Interpreter) -> str:
    """`py3.12-` and 24 hex: the digest of what is installed and on what, never of the request or the lock's wording."""
    return id_of(lock.files, interpreter.digest, interpreter.version, interpreter.platform)


def id_of(files: Sequence[LockedFile], digest: str, version: str, platform: str) -> str:
    """The same of `files`, sorted by name, on an interpreter that need not be here."""
    parts = [
        digest,
        version,
        platform,
        [[f"{file.name}=={file.version}", file.filename, file.sha256] for file in files],
    ]
    hashed = hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
    return f"py{'.'.join(version.split('.')[:2])}-{hashed[:24]}"


def compatible(interpreter: Interpreter) -> tuple[Tag, ...]:
    """The wheel tags that `interpreter` can install, best first. Raises `ValueError` for a platform of another form."""
    found = _PLATFORM.fullmatch(interpreter.platform)
    if found is None:
        msg = f"platform {interpreter.platform!r} is not known"
        raise ValueError(msg)
    machine, newest = found[1], int(found[2])
    platforms = []
    for minor in range(newest, _OLDEST_GLIBC[machine] - 1, -1):
        platforms.append(f"manylinux_2_{minor}_{machine}")
        if minor in _LEGACY:
            platforms.append(f"{_LEGACY[minor]}_{machine}")
    platforms.append(f"linux_{machine}")
    python = (int(interpreter.version.split(".")[0]), int(interpreter.version.split(".")[1]))
    name = f"cp{python[0]}{python[1]}"
    return (
        *cpython_tags(python_version=python, abis=[name], platforms=platforms),
        *compatible_tags(python_version=python, interpreter=name, platforms=platforms),
    )


def checked(text: str, index: Index) -> Pylock:
    """The lock that `text` is, of hashed files of the index only. Raises `UnfitLock`, packaging's `PylockValidationError`."""
    if len(text) > MAX_LOCK_BYTES:
        msg = f"it is longer than {MAX_LOCK_BYTES} bytes"
        raise UnfitLock(msg)
    if _ODD_SHAPE.search(_BASIC_STRING.sub("", _COMMENT_LINE.sub("", text))) is not None:
        msg = "it is not written as uv writes locks"
        raise UnfitLock(msg)
    try:
        text.encode()  # a lone surrogate could not be stored
        document = tomllib.loads(text)
        _check_tags(document.get("packages"))
        pylock = Pylock.from_dict(document)
    except (ValueError, RecursionError) as exc:
        msg = f"it is not TOML: {exc}"
        raise UnfitLock(msg) from exc
    if len(pylock.packages) > MAX_PACKAGES:
        msg = f"it holds more than {MAX_PACKAGES} packages"
        raise UnfitLock(msg)
    for package in pylock.packages:
        _check_sources(package, index)
    return pylock


def named(filename: str) -> tuple[str, Version]:
    """Normalised name and version that a wheel's or an sdist's file name states. Raises `UnfitLock`."""
    if _FILENAME.fullmatch(filename) is None:
        msg = f"file name {filename!r} is not allowed"
        raise UnfitLock(msg)
    _check_tags(filename)
    try:
        if not filename.endswith(".whl"):
            return parse_sdist_filename(filename)
        name, version, _, _ = parse_wheel_filename(filename)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion) as exc:
        msg = f"file name {filename!r} is neither a wheel's nor an sdist's"
        raise UnfitLock(msg) from exc
    return name, version


def sources_of(package: Package) -> list[PackageWheel | PackageSdist]:
    """Its files, wheels first."""
    return [*(package.wheels or ()), *([] if package.sdist is None else [package.sdist])]


def _chosen(text: str, interpreter: Interpreter, index: Index) -> Iterator[LockedFile]:
    pylock = checked(text, index)
    environment = {**interpreter.markers, "python_full_version": interpreter.version}
    try:
        # packaging types its environment as a TypedDict; ours comes from the interpreter itself
        selected = list(pylock.select(environment=environment, tags=compatible(interpreter)))  # type: ignore[arg-type]
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, KeyError) as exc:
        msg = f"a marker cannot be evaluated: {exc}"
        raise UnfitLock(msg) from exc
    for package, source in selected:
        if not isinstance(source, PackageWheel | PackageSdist):
            msg = f"{package.name} is neither a wheel nor an sdist"
            raise UnfitLock(msg)
        yield _file(package, source)


def _check_tags(value: object) -> None:
    """Refuse names that stand for very many tags before anything multiplies them out: "a.b.c-d.e.f-any" has nine."""
    if isinstance(value, str):
        for name in re.split("[/?#]", unquote(value)):
            if math.prod(part.count(".") + 1 for part in name.rsplit("-", 3)[1:]) > _MAX_TAGS:
                msg = f"{name[:100]!r} stands for too many tags"
                raise UnfitLock(msg)
    elif isinstance(value, list):
        for each in value:
            _check_tags(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            if key not in ("marker", "hashes"):
                _check_tags(each)


def _check_sources(package: Package, index: Index) -> None:
    """Refuse whatever could be taken for a source, chosen for this interpreter or not."""
    if package.vcs is not None or package.directory is not None or package.archive is not None:
        msg = f"{package.name} is a VCS reference, a directory or an archive"
        raise UnfitLock(msg)
    for source in sources_of(package):
        if source.path is not None or source.url is None:
            msg = f"{package.name} has a file without a URL"
            raise UnfitLock(msg)
        if not index.permits(source.url):
            msg = (
                f"{package.name} has a file that lies neither on the index nor on one of its file hosts: {source.url!r}"
            )
            raise UnfitLock(msg)
        name, version = _named(source)
        if name != package.name or (package.version is not None and version != package.version):
            msg = f"{package.name} has a file named {source.filename!r}"
            raise UnfitLock(msg)
        if SHA256.fullmatch(source.hashes.get("sha256", "")) is None:
            msg = f"{source.filename} has no SHA-256"
            raise UnfitLock(msg)


def _named(source: PackageWheel | PackageSdist) -> tuple[str, Version]:
    """Normalised name and version that the file's name states."""
    if source.filename != _last_of(source.url or ""):
        msg = f"file name {source.filename!r} is not the URL's own"
        raise UnfitLock(msg)
    if isinstance(source, PackageSdist) == source.filename.endswith(".whl"):
        msg = f"file name {source.filename!r} is not one of its kind"
        raise UnfitLock(msg)
    return named(source.filename)


def _last_of(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).name


def _file(package: Package, source: PackageWheel | PackageSdist) -> LockedFile:
    _, version = _named(source)
    return LockedFile(
        name=canonicalize_name(package.name),
        version=str(package.version or version),
        filename=source.filename,
        url=source.url or "",
        sha256=source.hashes["sha256"],
        size=source.size,
        is_sdist=isinstance(source, PackageSdist),
    )
