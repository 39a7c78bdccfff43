"""A composition's body: what is not the runner's to judge, and whether it has to be cut into parts at all.

Read by msgspec in one pass, where one runner takes the body as it came. Any other is read by Python's own parser, which
finds what is wrong, and then once more with its numbers as the texts they are, to be cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from orchestrator.api import parsing
from orchestrator.api.call_bodies import Timeout
from orchestrator.api.problems import InvalidMembers
from orchestrator.composition import exact
from orchestrator.errors import InvalidRequest, PayloadTooLarge

_MOST_FAULTS = 20
# Spelt with escapes it is not found: then the list operation runs in one sandbox, to the same end.
_SPREAD = b'"parallel"'


class KomposeBody(msgspec.Struct, forbid_unknown_fields=True):
    """A composition's members. Those that are `Raw` are the runner's to judge."""

    session: str | UnsetType = UNSET
    timeout: Timeout | UnsetType = UNSET
    args: Raw | UnsetType = UNSET
    kwargs: Raw | UnsetType = UNSET
    tuple: Raw | UnsetType = UNSET
    pipeline: Raw | UnsetType = UNSET
    pipes: Raw | UnsetType = UNSET
    listop: Raw | UnsetType = UNSET
    keep: Raw | UnsetType = UNSET
    drop: Raw | UnsetType = UNSET


MEMBERS = KomposeBody.__struct_fields__
_decode = msgspec.json.Decoder(KomposeBody).decode


@dataclass(frozen=True, slots=True)
class Composed:
    """`request`: all members, where the body may have to be cut; None: one runner takes it as it came."""

    session: str | UnsetType
    timeout: Timeout | UnsetType
    request: Mapping[str, Any] | None = None


def read(body: bytes, *, max_depth: int, max_values: int) -> Composed:
    """`max_values`: of a body that has to be taken apart. Raises: MalformedRequest, InvalidRequest, PayloadTooLarge."""
    parsing.check_depth(body, max_depth=max_depth)
    parsing.check_utf_8(body)
    try:
        read = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    else:
        one = (read.pipeline is UNSET) is not (read.listop is UNSET)
        if one and read.pipes is UNSET and _SPREAD not in body:
            return Composed(read.session, read.timeout)
    try:
        exact.Room(max_values).take(body)
    except exact.TooManyValues as exc:
        raise PayloadTooLarge(str(exc), limit_bytes=max_values) from exc
    return _slowly(body, max_depth)


def _slowly(body: bytes, max_depth: int) -> Composed:
    members = parsing.loads(body, max_depth=max_depth, any_number=True)
    if not isinstance(members, dict):
        msg = "the body must be a JSON object"
        raise InvalidRequest(msg)
    faults = [(name[:100], "unknown member") for name in members if name not in MEMBERS]
    if not isinstance(members.get("session", ""), str):
        faults.append(("session", "must be a string"))
    timeout = members.get("timeout", UNSET)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float | str | UnsetType):
        faults.append(("timeout", "must be milliseconds, as a number or a string of digits"))
    if faults:
        raise InvalidMembers(faults[:_MOST_FAULTS])
    return Composed(members.get("session", UNSET), timeout, exact.loads(body))
