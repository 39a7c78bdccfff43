"""The canonical form of a dependency set. Pure."""

import hashlib
import json
import re
from collections.abc import Sequence

from packaging.markers import InvalidMarker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import Specifier
from packaging.utils import canonicalize_name, canonicalize_version
from packaging.version import InvalidVersion, Version

from orchestrator.errors import InvalidRequest
from orchestrator.sandboxes.backend import Interpreter
from orchestrator.settings import Settings

_ECHO_CHARS = 80
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
# All that PEP 508 needs, URLs aside: no "/", "@", ":", "\", "#", "$", "{" or control character gets as far as a parser.
_ALLOWED = re.compile(r"[A-Za-z0-9 \t._,;<>=!~*+'\"()\[\]-]*")
# Of wheels and sdists. A name may end so by the letter of PEP 508, and pip takes it for a file all the same.
_ARCHIVES = (".whl", ".tar.gz", ".zip")


def canonical(dependencies: Sequence[str], *, max_count: int, max_bytes: int) -> tuple[str, ...]:
    """Write a dependency set in its one canonical form, so that equal sets share an image.

    Args:    dependencies: n PEP 508 strings, any order, n <= max_count, each at most max_bytes of UTF-8.
    Returns: at most n strings, sorted, no duplicates. Two that differ on one name both stay.
    Raises:  InvalidRequest: an item is an option, a path, a URL or no requirement; names its position.
    Source:  PEP 503 (names), PEP 508 (grammar), PEP 440 (versions).
    """
    if not isinstance(dependencies, list | tuple):
        msg = "dependencies must be a list of strings"
        raise InvalidRequest(msg, field="dependencies")
    if len(dependencies) > max_count:
        msg = f"{len(dependencies)} dependencies are more than the {max_count} allowed"
        raise InvalidRequest(msg, field="dependencies")
    wanted = set()
    for position, text in enumerate(dependencies):
        try:
            wanted.add(_canonical(text, max_bytes))
        except ValueError as exc:
            msg = f"dependency {position} ({_echo(text)}) {exc}"
            raise InvalidRequest(msg, field=f"dependencies[{position}]") from exc
    return tuple(sorted(wanted))


def request_digest(wanted: Sequence[str], interpreter: Interpreter, settings: Settings) -> str:
    """The alias's id (64 hex): everything that decides what a canonical set resolves to, save time."""
    parts = [
        interpreter.language,
        interpreter.digest,
        interpreter.version,
        interpreter.platform,
        settings.index_url,
        settings.exclude_newer,
        settings.allow_source_builds,
        list(wanted),
    ]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def _canonical(text: object, max_bytes: int) -> str:
    """Raises `ValueError` with the end of a sentence that begins with the dependency."""
    if not isinstance(text, str):
        msg = "is not a string"
        raise ValueError(msg)
    if len(text) > max_bytes or len(text.encode(errors="surrogatepass")) > max_bytes:
        msg = f"is longer than {max_bytes} bytes"
        raise ValueError(msg)
    stripped = text.strip(" \t")
    _refuse_other_kinds(stripped)
    try:
        requirement = Requirement(stripped)
        marker = "" if requirement.marker is None else str(requirement.marker)
        specifiers = sorted({_specifier(each) for each in requirement.specifier})
    except (InvalidRequirement, InvalidMarker, InvalidVersion, RecursionError) as exc:
        reason = str(exc).split("\n", 1)[0] or "cannot be read"
        msg = f"is not a PEP 508 requirement: {reason}"
        raise ValueError(msg) from exc
    if requirement.url is not None or _NAME.fullmatch(requirement.name) is None:
        msg = "must name a package of the index"
        raise ValueError(msg)
    extras = ",".join(sorted({canonicalize_name(extra) for extra in requirement.extras}))
    return "".join(
        (
            canonicalize_name(requirement.name),
            f"[{extras}]" if extras else "",
            ",".join(specifiers),
            f"; {marker}" if marker else "",
        )
    )


def _refuse_other_kinds(text: str) -> None:
    """What pip and uv would take for something else than a name, told apart for the sake of the message."""
    if not text:
        msg = "is empty"
    elif text.startswith("-"):
        msg = "is an option; only package requirements are allowed"
    elif "://" in text or "@" in text:
        msg = "is a URL or VCS reference; only packages of the index are allowed"
    elif "/" in text or "\\" in text or text.startswith(".") or text.lower().endswith(_ARCHIVES):
        msg = "is a path; only packages of the index are allowed"
    elif _ALLOWED.fullmatch(text) is None:
        msg = "holds a character that no requirement needs"
    else:
        return
    raise ValueError(msg)


def _specifier(specifier: Specifier) -> str:
    operator, version = specifier.operator, specifier.version
    if operator == "===":
        return f"==={Version(version)}"  # uv takes no other kind of text there
    if version.endswith(".*"):
        return f"{operator}{canonicalize_version(version[:-2], strip_trailing_zero=False)}.*"
    return f"{operator}{canonicalize_version(version, strip_trailing_zero=operator != '~=')}"


def _echo(text: object) -> str:
    shown = ascii(text) if isinstance(text, str) else type(text).__name__
    return shown if len(shown) <= _ECHO_CHARS else shown[: _ECHO_CHARS - 3] + "..."
