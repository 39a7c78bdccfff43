"""What can go wrong, as a client sees it: one class per code of the protocol.

KodouError
├─ NotConfigured            no token, or an address that is none
├─ Unreachable              no server answered
├─ BadReply                 what answered does not speak this protocol
├─ Refused                  the server refused the request; mend it
│  ├─ InvalidRequest
│  │  ├─ UnknownVersion     `offered`
│  │  ├─ NameNotFound
│  │  ├─ AttributeNotFound
│  │  ├─ NotCallable
│  │  ├─ ReferenceNotFound what a handle stood for is gone, as it is after a restart
│  │  └─ TooManyReferences
│  ├─ Unauthorized
│  ├─ Forbidden
│  ├─ NotFound
│  │  └─ SessionNotFound
│  ├─ SessionExpired
│  ├─ DependencyUnresolvable
│  ├─ BuildFailed           `log`: the end of the installer's log
│  ├─ PayloadTooLarge       `limit_bytes`
│  ├─ RateLimited           `after_s`
│  ├─ NotAcceptable         `available`
│  └─ MethodNotAllowed, RequestTimeout, UnsupportedMediaType, MisdirectedRequest, HeadTooLarge
├─ Unavailable              worth another try; `after_s`
│  ├─ EngineUnavailable
│  ├─ IndexUnavailable      the package index does not answer
│  ├─ SandboxLost
│  ├─ StoreBusy
│  ├─ SpoolFull             no room for the files of a call
│  ├─ NotReady
│  ├─ ShuttingDown
│  └─ TooManyConnections
├─ ServerDefect             the server's own fault; quote `request_id` to its operator
└─ CallFailed               the call reached the sandbox and gave no value; `stdout`, `stderr`, `ms`
   ├─ RemoteError           the function raised: `type`, `message`, `remote_traceback`; shown as its cause
   ├─ CallTimeout           the deadline came; the session lives on with a fresh interpreter
   ├─ WorkerDied            the interpreter ended under the call: `exit_code` or `signal`
   ├─ ValueNotSerializable  there is a value, but no JSON for it: `type`, `repr`
   ├─ ReplyTooLarge
   ├─ TooManyItems          an iterator gives more than the server collects
   └─ ReferenceTooLarge     it takes more memory than the session may keep
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing import Self


class KodouError(Exception):
    """Root. `code` is the protocol's; `members` holds everything else that the server said.

    `status` and `request_id` are None where no server answered.
    """

    code: ClassVar[str] = "error"

    def __init__(
        self,
        detail: str,
        *,
        members: Mapping[str, Any] | None = None,
        status: int | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members: Mapping[str, Any] = dict(members or {})
        self.status = status
        self.request_id = request_id

    def again(self) -> Self:
        """The same, to be raised once more: without the traceback, which holds on to what was at hand."""
        return type(self)(self.detail, members=self.members, status=self.status, request_id=self.request_id)


class NotConfigured(KodouError):
    code = "not_configured"


class Unreachable(KodouError):
    code = "unreachable"


class BadReply(KodouError):
    code = "bad_reply"


class Refused(KodouError):
    code = "refused"


class InvalidRequest(Refused):
    code = "invalid_request"

    @property
    def field(self) -> str | None:
        """The member of the request that is wrong, where the server knows."""
        return _text(self.members, "field")


class UnknownVersion(InvalidRequest):
    code = "unknown_version"

    @property
    def offered(self) -> list[str]:
        """The interpreter versions that the server has."""
        offered = self.members.get("offered")
        return [str(version) for version in offered] if isinstance(offered, list) else []


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
    code = "dependency_unresolvable"


class BuildFailed(Refused):
    code = "build_failed"

    @property
    def log(self) -> str:
        """The end of the installer's log; empty if the server sent none."""
        return _text(self.members, "log") or ""


class PayloadTooLarge(Refused):
    code = "payload_too_large"

    @property
    def limit_bytes(self) -> int | None:
        return _integer(self.members, "limit_bytes")


class RateLimited(Refused):
    code = "rate_limited"

    @property
    def after_s(self) -> float | None:
        """Seconds after which another try makes sense, where the server said so."""
        return _number(self.members, "after_s")


class MethodNotAllowed(Refused):
    code = "method_not_allowed"


class NotAcceptable(Refused):
    code = "not_acceptable"

    @property
    def available(self) -> list[str]:
        """The media types that the value has."""
        available = self.members.get("available")
        return [str(form) for form in available] if isinstance(available, list) else []


class RequestTimeout(Refused):
    code = "request_timeout"


class UnsupportedMediaType(Refused):
    code = "unsupported_media_type"


class MisdirectedRequest(Refused):
    code = "misdirected_request"


class HeadTooLarge(Refused):
    code = "head_too_large"


class Unavailable(KodouError):
    code = "unavailable"

    @property
    def after_s(self) -> float | None:
        """Seconds after which another try makes sense, where the server said so."""
        return _number(self.members, "after_s")


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


class NotReady(Unavailable):
    code = "not_ready"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class TooManyConnections(Unavailable):
    code = "too_many_connections"


class ServerDefect(KodouError):
    code = "internal"


class CallFailed(KodouError):
    code = "call_failed"

    @property
    def stdout(self) -> str:
        """What the call had printed."""
        return _text(self.members, "stdout") or ""

    @property
    def stderr(self) -> str:
        return _text(self.members, "stderr") or ""

    @property
    def ms(self) -> float | None:
        """Milliseconds inside the runner."""
        return _number(self.members, "ms")

    @property
    def restarted(self) -> bool:
        """The session has a fresh interpreter: what earlier calls left in modules is gone, and so is what was kept."""
        return self.members.get("restarted") is True

    @property
    def stage(self) -> int | None:
        """The stage of a pipeline that failed, counted from 0."""
        return _integer(self.members, "stage")

    @property
    def item(self) -> int | None:
        """The item of a list operation that failed, counted from 0."""
        return _integer(self.members, "item")


class RemoteTraceback(Exception):
    """The traceback of what a function raised, as the cause of a `RemoteError`: so Python shows one after the other."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class RemoteError(CallFailed):
    """What the function raised. `remote_traceback` holds the frames of the called code only."""

    code = "exception"

    def __init__(self, detail: str, **told: Any) -> None:
        super().__init__(detail, **told)
        if self.remote_traceback:
            self.__cause__ = RemoteTraceback(self.remote_traceback)

    @property
    def type(self) -> str:
        """Name of the exception's class, such as `ValueError`."""
        return _text(self._exception(), "type") or "Exception"

    @property
    def message(self) -> str:
        return _text(self._exception(), "message") or ""

    @property
    def remote_traceback(self) -> str:
        traceback = self._exception().get("traceback")
        if isinstance(traceback, list):
            return "".join(str(line) for line in traceback)
        return traceback if isinstance(traceback, str) else ""

    def _exception(self) -> Mapping[str, Any]:
        exception = self.members.get("exception")
        return exception if isinstance(exception, dict) else {}


class CallTimeout(CallFailed):
    code = "timeout"


class WorkerDied(CallFailed):
    code = "worker_died"

    @property
    def exit_code(self) -> int | None:
        return _integer(self.members, "exit_code")

    @property
    def signal(self) -> int | None:
        return _integer(self.members, "signal")


class ValueNotSerializable(CallFailed):
    code = "value_not_serializable"

    @property
    def type(self) -> str:
        """Qualified name of the value's type."""
        return _text(self.members, "type") or ""

    @property
    def repr(self) -> str:
        """The value's `repr`, bounded by the server."""
        return _text(self.members, "repr") or ""


class ReplyTooLarge(CallFailed):
    code = "reply_too_large"


class TooManyItems(CallFailed):
    code = "too_many_items"


class ReferenceTooLarge(CallFailed):
    code = "reference_too_large"


def _classes(root: type[KodouError]) -> dict[str, type[KodouError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_classes(child))
    return found


BY_CODE: Mapping[str, type[KodouError]] = _classes(KodouError)


def error_class(code: str, status: int) -> type[KodouError]:
    """The class for a code; for one that this version does not know, the nearest by status."""
    if code in BY_CODE:
        return BY_CODE[code]
    if status < 400:
        return CallFailed
    if status < 500:
        return Refused
    return Unavailable if status == 503 else ServerDefect


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    return value if isinstance(value, str) else None


def _number(members: Mapping[str, Any], name: str) -> float | None:
    value = members.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _integer(members: Mapping[str, Any], name: str) -> int | None:
    value = members.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
