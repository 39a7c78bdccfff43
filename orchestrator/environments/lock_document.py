"""The lock of an environment as clients keep it: all that is needed to make the same one again, here or elsewhere.

Unlike the pylock.toml that the store keeps, it names no URL, and of each package the one file that is installed. It comes
back from clients, so it is hostile: names, versions and hashes are checked here, and where the files lie is asked of the
index. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from orchestrator.environments.lock import SHA256, Lock, LockedFile, UnfitLock, id_of, named
from orchestrator.errors import InvalidRequest
from orchestrator.sandboxes.backend import Interpreter

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class LockDocument:
    environment_id: str
    language: str
    python: str  # the interpreter's exact version
    platform: str
    base: str  # digest of the base image, or of the host's interpreter
    runner: str
    built_on: str  # digest of base, runner and whatever else decides the environment's id
    index: str  # where its packages came from; said, not used
    files: tuple[LockedFile, ...]  # without URLs, sorted by name

    @classmethod
    def of(cls, environment_id: str, lock: Lock, interpreter: Interpreter, *, index: str) -> "LockDocument":
        return cls(
            environment_id=environment_id,
            language=interpreter.language,
            python=interpreter.version,
            platform=interpreter.platform,
            base=interpreter.base_digest,
            runner=interpreter.runner,
            built_on=interpreter.digest,
            index=index,
            files=lock.files,
        )

    @classmethod
    def read(cls, members: Mapping[str, Any]) -> "LockDocument":
        """The document in `members`, as `members()` writes them; that each is there and a string was checked before.

        Raises `InvalidRequest`: a file is none, or not its package's; a package is there twice; the id is not that of the
        rest. Names the member, as within `{"lock": …}`.
        """
        packages: Sequence[Mapping[str, str]] = members["packages"]
        files = [_file(package, f"lock.packages[{position}]") for position, package in enumerate(packages)]
        seen: set[str] = set()
        for position, file in enumerate(files):
            if file.name in seen:
                _refuse(f"lock.packages[{position}].name", f"{file.name} is there twice")
            seen.add(file.name)
        files.sort(key=lambda file: file.name)
        if members["id"] != id_of(files, members["built_on"], members["python"], members["platform"]):
            _refuse("lock.id", "is not that of the lock's packages and interpreter: the lock was changed")
        return cls(
            environment_id=members["id"],
            language=members["language"],
            python=members["python"],
            platform=members["platform"],
            base=members["base"],
            runner=members["runner"],
            built_on=members["built_on"],
            index=members["index"],
            files=tuple(files),
        )

    def check_base(self, interpreter: Interpreter) -> None:
        """Raises `InvalidRequest`: it says to be of this very interpreter, and yet of another base or runner."""
        if self.built_on != interpreter.digest:
            return
        for member, stated, known in (
            ("base", self.base, interpreter.base_digest),
            ("runner", self.runner, interpreter.runner),
        ):
            if stated != known:
                _refuse(f"lock.{member}", "is not that of what the lock says to be built on: the lock was changed")

    def members(self) -> dict[str, object]:
        return {
            "version": FORMAT_VERSION,
            "id": self.environment_id,
            "language": self.language,
            "python": self.python,
            "platform": self.platform,
            "base": self.base,
            "runner": self.runner,
            "built_on": self.built_on,
            "index": self.index,
            "packages": [
                {"name": file.name, "version": file.version, "filename": file.filename, "sha256": file.sha256}
                for file in self.files
            ],
        }


def _file(package: Mapping[str, str], field: str) -> LockedFile:
    name, version, filename, sha256 = (package[each] for each in ("name", "version", "filename", "sha256"))
    if SHA256.fullmatch(sha256) is None:
        _refuse(f"{field}.sha256", "must be 64 hexadecimal digits in lower case")
    try:
        stated_name, stated_version = named(filename)
    except UnfitLock as exc:
        _refuse(f"{field}.filename", ascii(str(exc))[1:-1])
    if not name.isascii() or canonicalize_name(name) != name or stated_name != name:
        _refuse(f"{field}.name", "is not the normalised name in the file's name")
    if not _is_written(version, stated_version):
        _refuse(f"{field}.version", "is not the normalised version in the file's name")
    return LockedFile(name, version, filename, "", sha256, None, is_sdist=not filename.endswith(".whl"))


def _refuse(member: str, wrong: str) -> NoReturn:
    msg = f"{member}: {wrong}"  # as members of the wrong kind are told
    raise InvalidRequest(msg, field=member)


def _is_written(text: str, version: Version) -> bool:
    """`text` means that version, and is in normal form: "1.0" and "1" mean the same, and either is normal."""
    try:
        return Version(text) == version and str(Version(text)) == text
    except InvalidVersion:
        return False
