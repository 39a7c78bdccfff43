"""Files that a lock document names, found again on this server's index."""

import json
from collections.abc import Iterator, Sequence

from packaging.pylock import PylockValidationError

from orchestrator.environments.lock import LockedFile, UnfitLock, checked, sources_of, unusable
from orchestrator.errors import DependencyUnresolvable
from orchestrator.packages.index import Index

_HEAD = 'lock-version = "1.0"\ncreated-by = "kodou"\n'


def pin(file: LockedFile) -> str:
    """The requirement that only this version of this package fulfils."""
    return f"{file.name}=={file.version}"


def narrowed(texts: Sequence[str], files: Sequence[LockedFile], index: Index) -> str:
    """The text of a lock of just these files, with the URLs that other locks have for them.

    Raises `DependencyUnresolvable`: none of `texts` has a file of that name and hash, or one is no lock.
    """
    try:
        urls = {found: url for text in texts for found, url in _listed(text, index)}
    except (UnfitLock, PylockValidationError) as exc:
        raise unusable(exc) from exc
    for file in files:
        if (file.filename, file.sha256) not in urls:
            msg = f"the index has no {file.filename} with the hash that the lock names, or none for this interpreter"
            raise DependencyUnresolvable(msg)
    entries = [_entry(file, urls[file.filename, file.sha256]) for file in files]
    return _HEAD + ("".join(entries) if entries else "packages = []\n")


def _listed(text: str, index: Index) -> Iterator[tuple[tuple[str, str], str]]:
    for package in checked(text, index).packages:
        for source in sources_of(package):
            yield (source.filename, source.hashes["sha256"]), source.url or ""


def _entry(file: LockedFile, url: str) -> str:
    source = f'{{ url = {json.dumps(url)}, hashes = {{ sha256 = "{file.sha256}" }} }}'
    what = f"sdist = {source}" if file.is_sdist else f"wheels = [{source}]"
    return f'\n[[packages]]\nname = "{file.name}"\nversion = "{file.version}"\n{what}\n'
