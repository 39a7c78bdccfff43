"""How things look, on a terminal and in a notebook."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from kodou.image import Image

if TYPE_CHECKING:
    from kodou.expressions import Expression
    from kodou.messages import EnvironmentInfo
    from kodou.references import Kept
    from kodou.session import AsyncSession, Session

S = TypeVar("S")

CLOSED = "the environment is closed, and opens once: make another `Environment`"


def opened(session: S | None, *, closed: bool) -> S:
    """Raises RuntimeError: there is none."""
    if session is None:
        msg = CLOSED if closed else "the environment is not open: use `with` (or `async with`), or `open()`"
        raise RuntimeError(msg)
    return session


def kept(handle: Expression) -> Kept:
    """What a handle stands for."""
    found = handle._steps[0].kept
    assert found is not None  # noqa: S101  handles are made of it
    return found


def handle(value: Expression) -> str:
    return f"<{kept(value).name}, {kept(value).type}: {kept(value).repr}>"


def handle_html(value: Expression) -> str:
    found = kept(value)
    return f"<b>{html.escape(found.name)}</b> <i>{html.escape(found.type)}</i><pre>{html.escape(found.repr)}</pre>"


def environment(dependencies: str | Iterable[str], session: Session | AsyncSession | None, *, closed: bool) -> str:
    info = session.environment if session is not None else None
    if info is None:
        return f"<Environment {list(dependencies)}, {_state(closed)}>"
    return f"<Environment {info.id}: {_language(info)}{''.join(f', {name} {v}' for name, v in info.packages.items())}>"


def environment_html(dependencies: str | Iterable[str], session: Session | AsyncSession | None, *, closed: bool) -> str:
    info = session.environment if session is not None else None
    if info is None:
        return f"<b>Environment</b> {html.escape(', '.join(dependencies))} ({_state(closed)})"
    return info_html(info)


def _state(closed: bool) -> str:
    return "closed" if closed else "not open"


def info_html(info: EnvironmentInfo) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(version)}</td></tr>"
        for name, version in info.packages.items()
    )
    return f"<b>{html.escape(_language(info))}</b> <code>{html.escape(info.id)}</code><table>{rows}</table>"


def value_html(value: Any) -> str | None:
    """What a value shows itself as in a notebook; None: as its text."""
    if isinstance(value, Image):
        return f'<img src="data:{html.escape(value.type)};base64,{base64.b64encode(value.data).decode()}">'
    shown = getattr(value, "_repr_html_", None)
    return shown() if callable(shown) else None


def _language(info: EnvironmentInfo) -> str:
    return f"{info.language.capitalize()} {info.version}"
