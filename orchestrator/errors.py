"""What can go wrong, as the rest of the server sees it. Status codes live in `api/problems.py`, not here.

KodouError
├─ Refused                 the caller can mend it
│  ├─ InvalidRequest       malformed or out of bounds; `field` says where
│  │  ├─ UnknownVersion    no interpreter on offer matches
│  │  ├─ NameNotFound      nothing importable, and no builtin, by that name
│  │  ├─ AttributeNotFound what came before lacks it
│  │  ├─ NotCallable       arguments for something that takes none
│  │  ├─ ReferenceNotFound nothing is kept by that name
│  │  └─ TooManyReferences the session keeps as many objects as it may
│  ├─ Unauthorized         no key, or one that is unknown, expired or revoked
│  ├─ Forbidden            the key lacks a scope
│  ├─ NotFound             no such thing, or not the caller's
│  │  └─ SessionNotFound
│  ├─ SessionExpired       was the caller's, and has ended by itself
│  ├─ DependencyUnresolvable
│  ├─ BuildFailed          `log_tail`
│  ├─ PayloadTooLarge      `limit_bytes`
│  └─ RateLimited          `after_s`
├─ Unavailable             worth another try; `after_s`
│  ├─ EngineUnavailable    the engine does not answer
│  ├─ IndexUnavailable     the package index does not answer
│  ├─ SandboxLost          the sandbox ended under the call
│  ├─ StoreBusy            the store is locked or full
│  ├─ SpoolFull            no room for the files of an upload
│  └─ ShuttingDown
└─ Defect                  ours; the reply holds a request id, nothing else
   └─ InvalidTransition    an event that the state does not know

What the user's function raised is a reply (`sandboxes.replies.Reply`), not an error of ours.
"""

from collections.abc import Mapping, Sequence
from typing import Self


class KodouError(Exception):
    """Root. `code` is stable and names the condition, never the backend. `detail` is fit for the caller to read. `place` says
    where in a composition: `pipe`, `stage`, `item`, those that apply."""

    code = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.place: Mapping[str, int] = {}

    def members(self) -> dict[str, object]:
        """Further members of the problem document, JSON-ready."""
        return {}

    def at(self, place: Mapping[str, int]) -> Self:
        """The same error, there. A copy: one failure may reach several requests."""
        other = type(self).__new__(type(self), *self.args)
        other.__dict__.update(self.__dict__, place={**place, **self.place})
        return other


class Refused(KodouError):
    code = "refused"


class InvalidRequest(Refused):
    code = "invalid_request"

    def __init__(self, detail: str, *, field: str | None = None, place: Mapping[str, int] | None = None) -> None:
        super().__init__(detail)
        self.field = field
        self.place = dict(place or {})

    def members(self) -> dict[str, object]:
        return {} if self.field is None else {"field": self.field}


class UnknownVersion(InvalidRequest):
    code = "unknown_version"

    def __init__(self, detail: str, *, offered: Sequence[str], field: str = "version") -> None:
        super().__init__(detail, field=field)
        self.offered = tuple(offered)

    def members(self) -> dict[str, object]:
        return {**super().members(), "offered": list(self.offered)}


class NameNotFound(InvalidRequest):
    code = "name_not_found"


class AttributeNotFound(InvalidRequest):
    code = "attribute_not_found"


class NotCallable(InvalidRequest):
    code = "not_callable"


class ReferenceNotFound(InvalidRequest):
    code = "reference_not_found"


class TooManyReferences(InvalidRequest):
    code = "too_many_references"


class Unauthorized(Refused):
    code = "unauthorized"


class Forbidden(Refused):
    code = "forbidden"


class NotFound(Refused):
    code = "not_found"


class SessionNotFound(NotFound):
    code = "session_not_found"


class SessionExpired(Refused):
    code = "session_expired"


class DependencyUnresolvable(Refused):
    """`detail` holds the resolver's own explanation."""

    code = "dependency_unresolvable"


class BuildFailed(Refused):
    code = "build_failed"

    def __init__(self, detail: str, *, log_tail: str) -> None:
        super().__init__(detail)
        self.log_tail = log_tail

    def members(self) -> dict[str, object]:
        return {"log": self.log_tail}


class PayloadTooLarge(Refused):
    code = "payload_too_large"

    def __init__(self, detail: str, *, limit_bytes: int) -> None:
        super().__init__(detail)
        self.limit_bytes = limit_bytes

    def members(self) -> dict[str, object]:
        return {"limit_bytes": self.limit_bytes}


class RateLimited(Refused):
    code = "rate_limited"

    def __init__(self, detail: str, *, after_s: float) -> None:
        super().__init__(detail)
        self.after_s = after_s


class Unavailable(KodouError):
    code = "unavailable"

    def __init__(self, detail: str, *, after_s: float = 5.0) -> None:
        super().__init__(detail)
        self.after_s = after_s


class EngineUnavailable(Unavailable):
    code = "engine_unavailable"


class IndexUnavailable(Unavailable):
    code = "index_unavailable"


class SandboxLost(Unavailable):
    code = "sandbox_lost"


class StoreBusy(Unavailable):
    code = "store_busy"


class SpoolFull(Unavailable):
    code = "spool_full"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class Defect(KodouError):
    code = "internal"


class InvalidTransition(Defect):
    pass
