"""Which interpreter a request means. Pure."""

import re
from collections.abc import Sequence

from packaging.version import Version

from orchestrator.errors import EngineUnavailable, UnknownVersion
from orchestrator.sandboxes.backend import Interpreter

_WANTED = re.compile(r"(0|[1-9][0-9]{0,3})(\.(0|[1-9][0-9]{0,3})){0,2}", re.ASCII)

_NONE_READY = "no interpreter is ready yet"


def match(version: str | None, offered: Sequence[Interpreter], default: str | None) -> Interpreter:
    """The newest interpreter on offer whose version begins, component by component, with `version`.

    None means `default` where something on offer matches it, else the newest. Raises `UnknownVersion` that lists what
    is on offer, `EngineUnavailable` when nothing is.
    """
    if not offered:
        raise EngineUnavailable(_NONE_READY)
    if version is None:
        return _newest(_matching(default, offered) or list(offered))
    matching = _matching(version, offered)
    if not matching:
        raise _unknown(version, offered, field="version")
    return _newest(matching)


def exact(version: str, offered: Sequence[Interpreter]) -> Interpreter:
    """The interpreter of that very version. Raises `UnknownVersion`, `EngineUnavailable`."""
    if not offered:
        raise EngineUnavailable(_NONE_READY)
    for interpreter in offered:
        if interpreter.version == version:
            return interpreter
    raise _unknown(version, offered, field="lock.python")


def _unknown(version: str, offered: Sequence[Interpreter], *, field: str) -> UnknownVersion:
    names = [each.version for each in sorted(offered, key=_rank, reverse=True)]
    msg = f"no interpreter on offer is version {ascii(version)[:40]}; on offer: {', '.join(names)}"
    return UnknownVersion(msg, offered=names, field=field)


def _matching(version: str | None, offered: Sequence[Interpreter]) -> list[Interpreter]:
    if not isinstance(version, str) or _WANTED.fullmatch(version) is None:
        return []
    wanted = tuple(int(component) for component in version.split("."))
    return [each for each in offered if Version(each.version).release[: len(wanted)] == wanted]


def _newest(interpreters: Sequence[Interpreter]) -> Interpreter:
    return max(interpreters, key=_rank)


def _rank(interpreter: Interpreter) -> tuple[bool, Version]:
    version = Version(interpreter.version)
    return not version.is_prerelease, version  # a release candidate is offered, but never preferred
