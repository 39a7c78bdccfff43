"""What an environment offers, in words: for completion and help."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kodou.errors import BadReply
from kodou.expressions import Expression, called
from kodou.messages import Request, Response
from kodou.protocol import read_call

if TYPE_CHECKING:
    from kodou.scope import Scope

MAX_MEMBERS = 1000
MAX_SHOWN = 50  # of them, in a notebook


@dataclass(frozen=True)
class Member:
    """One name in what is described. `summary` is the first line of its docstring."""

    name: str
    kind: str
    signature: str | None = None
    summary: str | None = None


@dataclass(frozen=True)
class Description:
    """A module, class, function or object, described without running it. `parameters`: a JSON Schema of them."""

    name: str
    kind: str
    type: str | None
    signature: str | None
    doc: str | None
    parameters: Mapping[str, Any] | None
    members: tuple[Member, ...]

    def __str__(self) -> str:
        members = "\n".join(f"  {member.name}: {member.summary or member.kind}" for member in self.members)
        return "\n\n".join(part for part in (f"{self.name}{self.signature or ''}", self.doc, members) if part)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><code>{_text(member.name)}</code></td><td>{_text(member.summary or member.kind)}</td></tr>"
            for member in self.members[:MAX_SHOWN]
        )
        title = f"<b><code>{_text(self.name + (self.signature or ''))}</code></b> <i>{_text(self.kind)}</i>"
        return f"{title}<pre>{_text(self.doc or '')}</pre><table>{rows}</table>"


def describe_request(scope: Scope, target: Expression | str | None, prefix: str = "") -> Request:
    """Raises TypeError: the target would have to be run to be described."""
    members: dict[str, Any] = {"sessionid": scope._session_id, "namepath": _namepath(scope, target)}
    if prefix:
        members["prefix"] = prefix
    members["limit"] = MAX_MEMBERS
    return Request("POST", f"/environment/{quote(scope._language, safe='')}/describe", json.dumps(members).encode())


def read_description(response: Response) -> Description:
    """Raises a `KodouError`."""
    value = read_call(response).value
    try:
        members = tuple(
            Member(item["name"], item["kind"], item.get("signature"), item.get("summary"))
            for item in value.get("members", [])
        )
        described = {name: value.get(name) for name in ("type", "signature", "doc", "parameters")}
        return Description(name=value["name"], kind=value["kind"], members=members, **described)
    except (AttributeError, KeyError, TypeError) as exc:
        msg = f"the server's description lacks or misstates a member: {exc}"
        raise BadReply(msg) from exc


def _namepath(scope: Scope, target: Expression | str | None) -> list[Any]:
    if target is None or isinstance(target, str):
        return target.split(".") if target else []
    if called(target):
        msg = "only names can be described, as nothing is run for it: keep() the value, and describe what that gives"
        raise TypeError(msg)
    first, *rest = target._steps
    root: Any = first.name if first.kept is None else {"ref": first.kept.name_in(scope._references)}
    return [root, *(step.name for step in rest)]


def _text(text: str) -> str:
    return html.escape(text)
