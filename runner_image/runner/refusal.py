"""How a call ends that has no value: refused, or with a result that cannot be given. One kind for each way to fail."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence


class Refusal(Exception):
    """The call itself is wrong. `code` is one of `frames.REFUSALS`; `field` says where in the request."""

    code = ""

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field

    def members(self) -> dict[str, Any]:
        members = {"code": self.code, "detail": self.detail}
        if self.field is not None:
            members["field"] = self.field
        return members


class InvalidRequest(Refusal):
    code = "invalid_request"


class NameNotFound(Refusal):
    """Neither an importable module nor a builtin."""

    code = "name_not_found"


class AttributeNotFound(Refusal):
    """What came before has no such attribute, nor submodule."""

    code = "attribute_not_found"


class NotCallable(Refusal):
    """Arguments for what takes none."""

    code = "not_callable"


class ReferenceNotFound(Refusal):
    """The session keeps nothing under that name."""

    code = "reference_not_found"


class TooManyReferences(Refusal):
    code = "too_many_references"


class NotAcceptable(Refusal):
    """The value has none of the forms that were asked for; `available` are those it has, of `frames.FORMS`."""

    code = "not_acceptable"

    def __init__(self, detail: str, available: Sequence[str]) -> None:
        super().__init__(detail)
        self.available = list(available)

    def members(self) -> dict[str, Any]:
        return {**super().members(), "available": self.available}


class NoValue(Exception):
    """The function returned, and its result cannot go into a reply."""

    code = ""

    def __init__(self, detail: str, **further: str) -> None:
        super().__init__(detail)
        self.members: dict[str, Any] = {"code": self.code, "detail": detail, **further}


class NotSerializable(NoValue):
    code = "value_not_serializable"


class TooManyItems(NoValue):
    code = "too_many_items"


class ReplyTooLarge(NoValue):
    code = "reply_too_large"


class ReferenceTooLarge(NoValue):
    """All that the session keeps would take more memory than it may."""

    code = "reference_too_large"


class ArgumentRaised(BaseException):
    """What user code raised while it made the typed argument `field`: no error of the runner's, whatever it is."""

    def __init__(self, raised: BaseException, field: str) -> None:
        super().__init__(field)
        self.raised = raised
        self.field = field
