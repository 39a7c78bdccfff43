"""The form in which a value goes out: of those that the client takes, the first that the value has."""

from __future__ import annotations

from ..describe import type_name
from ..frames import JSON, TYPED
from ..headroom import Headroom
from ..refusal import NotAcceptable, NotSerializable, ReplyTooLarge
from . import rendering

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Sequence

    from .images import Content

# What forms are called outside: by the client in `Accept`, and by the orchestrator.
MEDIA_TYPES = {
    "json": "application/json",
    "typed": "multipart/form-data",
    "text": "text/plain",
    "csv": "text/csv",
    "png": "image/png",
    "svg": "image/svg+xml",
    "arrow": "application/vnd.apache.arrow.stream",
    "npy": "application/x-npy",
    "octets": "application/octet-stream",
}
_OF_JSON = frozenset({JSON, TYPED})
# To see whether a value has a form, so much of it is written.
_TRIAL_BYTES = 64 * 1024


class Rendered:
    """A value in the form `form`. `type` is the name of its type; None where that is JSON's own, and so is the form.

    `body` is its JSON, and `files` the names and bytes beside it in typed form; in all other forms it is `content`.
    """

    __slots__ = ("body", "content", "files", "form", "type")

    def __init__(
        self,
        form: str,
        type: str | None,
        body: bytes = b"",
        files: Sequence[tuple[str, Content]] = (),
        content: Content = b"",
    ) -> None:
        self.form = form
        self.type = type
        self.body = body
        self.files = files
        self.content = content


def render(
    value: Any, forms: Sequence[str], *, max_bytes: int, max_content_bytes: int, nonfinite_as_strings: bool = False
) -> Rendered:
    """A value in the first of the `forms` (names of `frames.FORMS`) that it has.

    Args:   max_bytes: of JSON; max_content_bytes: of content, and of all files together.
    Raises: NotAcceptable: it has none of them (or rendering it in them failed), but may have others. NotSerializable:
            rendering it failed, as JSON or where it has no other form either. ReplyTooLarge: where that shows early.
    """
    failure: NotSerializable | None = None
    for form in forms:
        try:
            if form == JSON:
                body, name = rendering.encode(value, max_bytes=max_bytes, nonfinite_as_strings=nonfinite_as_strings)
                return Rendered(JSON, name, body)
            if form == TYPED:
                return _typed(value, max_bytes, max_content_bytes)
            content = _content(value, form, max_content_bytes)
        except NotSerializable as exc:
            failure = failure or exc
            continue
        if content is not None:
            return Rendered(form, type_name(type(value)), content=content)
    refusal = _not_acceptable(value, forms, max_bytes, failure)
    if failure is not None and not (refusal.available and _OF_JSON.isdisjoint(forms)):
        raise failure
    raise refusal


def _typed(value: Any, max_bytes: int, max_content_bytes: int) -> Rendered:
    from . import typed

    body, name, files = typed.encode(value, max_bytes=max_bytes, max_content_bytes=max_content_bytes)
    return Rendered(TYPED, name, body, files)


def _content(value: Any, form: str, max_bytes: int) -> Content | None:
    """The bytes of a value in a form that it may have. Raises NotSerializable: methods of the user's failed."""
    from .contents import find
    from .room import Room

    room = Room(max_bytes)
    try:
        with Headroom():
            writer = find(value, form)
            content = None if writer is None else writer(room)
            room.check(0 if content is None else len(content))
            return content
    except BaseException as exc:
        failure = rendering.no_value(value, exc)
    raise failure


def _not_acceptable(
    value: Any, lacking: Sequence[str], max_bytes: int, failure: NotSerializable | None
) -> NotAcceptable:
    available = [form for form in _available(value, lacking, max_bytes) if form not in lacking]
    has = ", ".join(MEDIA_TYPES[form] for form in available) or "none"
    msg = f"a value of type {type_name(type(value))} has none of the forms asked for; it has: {has}"
    if failure is not None:
        msg += f" ({failure.members['detail']})"
    return NotAcceptable(msg, available)


def _available(value: Any, lacking: Sequence[str], max_bytes: int) -> list[str]:
    """The forms that a value has, not counting those that it was found to lack."""
    from .comma_separated import is_regular
    from .contents import FORMS

    forms = [JSON, TYPED] if _holds(rendering.has_form, value, max_bytes) else []
    forms += [form for form in FORMS if form not in lacking and _holds(_begins, value, form)]
    if "csv" in forms and not (JSON in forms and _holds(is_regular, value)):  # cells are written as in JSON
        forms.remove("csv")
    return forms


def _begins(value: Any, form: str) -> bool:
    """Whether a value can be written in a form, as far as its first bytes tell."""
    try:
        return _content(value, form, _TRIAL_BYTES) is not None
    except ReplyTooLarge:
        return True


def _holds(test: Any, *args: Any) -> bool:
    try:
        return bool(test(*args))
    except BaseException:  # methods of the user's
        return False
