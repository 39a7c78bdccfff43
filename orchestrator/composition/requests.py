"""What a part asks its runner for: JSON put together, and the files that it names."""

from collections.abc import Mapping
from typing import Any

from runner import frames

from orchestrator.composition import exact
from orchestrator.composition.crossing import Crossing, shared
from orchestrator.composition.tags import FILES, tagged
from orchestrator.errors import SandboxLost
from orchestrator.sandboxes.work import File, Work


def request(
    members: Mapping[str, Any],
    files: tuple[File, ...],
    piped: Crossing | None = None,
    *,
    forms: tuple[str, ...] = (frames.TYPED,),
    flags: int = 0,
) -> Work:
    """A COMPOSE. Of `files` those that `members` name go with it; of `piped` all. Raises `SandboxLost`: a value that a
    runner sent is none that can be passed on."""
    named = {found[tag] for found, tag in tagged(members, FILES)} if files else frozenset()
    own = tuple(shared(file) for file in files if file.name in named)
    if piped is not None:
        members = {**members, "piped": piped.value}
        own += piped.files
    try:
        return Work(frames.COMPOSE, exact.dumps(members), flags, forms, own)
    except (ValueError, RecursionError) as exc:
        msg = "a runner sent a value that cannot be passed on"
        raise SandboxLost(msg) from exc
