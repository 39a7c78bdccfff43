"""What a backend promises on this machine: told by `kodou doctor`, and at the start of a server held to its settings."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.errors import EngineUnavailable
from orchestrator.telemetry import log


@dataclass(frozen=True)
class Promise:
    """`held`: this machine can keep it. `detail` says what was found, and what to do where it is not held."""

    name: str
    held: bool
    detail: str


SHARED_SANDBOXES = "shared sandboxes"


def require_sharing(promises: Sequence[Promise]) -> None:
    """Raises `EngineUnavailable`: settings ask for shared sandboxes, of which there is a promise only then, and none can be
    had."""
    for promise in promises:
        if promise.name == SHARED_SANDBOXES and not promise.held:
            msg = f"KODOU_SHARE_SANDBOXES: {promise.detail}"
            raise EngineUnavailable(msg)


def require(promises: Sequence[Promise], required: Collection[str]) -> None:
    """Log what is not held; raise `EngineUnavailable` if that is required, or if nothing here promises it at all."""
    broken = {promise.name: promise.detail for promise in promises if not promise.held}
    if broken:
        log.info("promises_not_held", **broken)
    unknown = set(required) - {promise.name for promise in promises}
    if unknown:
        msg = f"KODOU_REQUIRED_PROMISES names what this backend does not promise: {', '.join(sorted(unknown))}"
        raise EngineUnavailable(msg)
    for name in required:
        if name in broken:
            msg = f"KODOU_REQUIRED_PROMISES: {name!r} cannot be held here: {broken[name]}"
            raise EngineUnavailable(msg)
