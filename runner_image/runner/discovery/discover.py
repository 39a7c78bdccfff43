"""What a namepath names, in words: for completion, help and forms.

Modules are imported to be looked at, as by a call. Nothing else is run: no property, no `__getattr__` or `__dir__`, no
annotation. What only running could tell is left out.
"""

from __future__ import annotations

from heapq import nsmallest
from inspect import cleandoc
from types import FunctionType

from ..evaluation.strict import load
from . import hints
from .parameters import Signature
from .signatures import signature
from .statics import MISSING, doc, is_class, method, read, type_name
from .subjects import Subject, find, members
from .text_signatures import in_doc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .subjects import Kept

# In characters.
MAX_DOC = 16 * 1024
MAX_SIGNATURE = 2000
MAX_SUMMARY = 200
MAX_MEMBERS = 1000
_USUAL_MEMBERS = 200
_CALLED = frozenset({"class", "function", "method", "staticmethod", "classmethod"})


def discover(body: bytes, kept: Kept | None = None) -> dict[str, Any]:
    """The value of the reply to a DESCRIBE, whose body is {"namepath"?, "prefix"?, "private"?, "limit"?, "after"?}.

    Raises: Refusal: a name that is not there, or an element that would have to be run. Whatever importing a module raises.
    """
    request = load(body)
    name, subject = find(request.get("namepath") or [], kept)
    described = {"name": name, "kind": "namespace"} if subject is None else _described(name, subject)
    return {**described, **_page(members(subject), request)}


def _described(name: str, subject: Subject) -> dict[str, Any]:
    value = subject.value
    described: dict[str, Any] = {"name": name, "kind": subject.kind}
    if value is MISSING:
        return described
    described["type"] = type_name(type(value))
    found = _signature(subject)
    if found is not None:
        described["signature"] = str(found)[:MAX_SIGNATURE]
        parameters = found.schema()
        if parameters is not None:
            described["parameters"] = parameters
    returns = _returns(subject, found)
    if returns is not None:
        described["returns"] = {**hints.schema(returns), "x-python": returns}
    text = cleandoc(_doc(subject))
    if text:
        described["doc"] = text if len(text) <= MAX_DOC else text[:MAX_DOC] + "…"
    return described


def _doc(subject: Subject) -> str:
    """Its own, or that of its class where that is what one would want to know of it."""
    value = subject.value
    made = subject.kind == "object" or (subject.kind in _CALLED and type(method(value, "__call__")) is FunctionType)
    return doc(value) or (doc(type(value)) if made and not is_class(value) else "")


def _signature(subject: Subject) -> Signature | None:
    if subject.kind not in _CALLED or subject.value is MISSING:
        return None
    return signature(subject.value, bound=subject.bound)


def _returns(subject: Subject, found: Signature | None) -> str | None:
    """The annotation of what comes back; for a property, of what it gives."""
    if type(subject.value) is property:
        found = signature(read(subject.value, "fget"))
    return None if found is None else found.returns


def _page(all_members: dict[str, Subject], request: dict[str, Any]) -> dict[str, Any]:
    """Members in the order of their names, from after `after` on; `truncated` where more follow."""
    prefix, after, limit = request.get("prefix", ""), request.get("after", ""), request.get("limit", _USUAL_MEMBERS)
    limit = min(int(limit), MAX_MEMBERS)
    wanted = (
        name
        for name in all_members
        if name.startswith(prefix) and name > after and (request.get("private") or not name.startswith("_"))
    )
    names = nsmallest(limit + 1, wanted)
    page: dict[str, Any] = {"members": [_listed(name, all_members[name]) for name in names[:limit]]}
    return {**page, "truncated": True} if len(names) > limit else page


def _listed(name: str, subject: Subject) -> dict[str, Any]:
    listed: dict[str, Any] = {"name": name[:MAX_SUMMARY], "kind": subject.kind}
    found = _signature(subject)
    if found is not None:
        listed["signature"] = str(found)[:MAX_SUMMARY]
    summary = "" if subject.value is MISSING else _summary(subject)
    return {**listed, "summary": summary} if summary else listed


def _summary(subject: Subject) -> str:
    """The first line that says something: not the signatures that docs of C functions begin with."""
    _, text = in_doc(_doc(subject), subject.value)
    lines = (line.strip(" \t-") for line in text[:MAX_DOC].splitlines())
    return next((line[:MAX_SUMMARY] for line in lines if line.strip(".=~*")), "")
