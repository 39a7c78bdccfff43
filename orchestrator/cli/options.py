"""What commands have in common: options, the forms of their values, and the settings they make."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from orchestrator.settings import Settings

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", envvar="KODOU_DATA_DIR", help="Where the server keeps its files.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([KMGT]?)(i?)B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class SettingsRefused(Exception):
    """Settings that are wrong or unsafe; its text is one line that says which and what to do."""


def duration(text: str) -> timedelta:
    """`30d`, `12h`, `45m`, `90s`. Raises `BadParameter`."""
    found = _DURATION.fullmatch(text)
    if found is None or int(found[1]) == 0:
        msg = f"{text!r} is no duration such as 30d, 12h, 45m or 90s"
        raise typer.BadParameter(msg)
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def size(text: str) -> int:
    """Bytes: `20GB` (powers of 1000), `512MiB` (powers of 1024), `1000`. Raises `BadParameter`."""
    found = _SIZE.fullmatch(text)
    if found is None:
        msg = f"{text!r} is no size such as 20GB or 512MiB"
        raise typer.BadParameter(msg)
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2].upper()])


def names(text: str) -> frozenset[str]:
    """`setup,call`. Raises `BadParameter` if nothing is named."""
    found = frozenset(name.strip() for name in text.split(",") if name.strip())
    if not found:
        msg = "name at least one, such as setup,call"
        raise typer.BadParameter(msg)
    return found


def load_settings(**options: Any) -> "Settings":
    """Settings from the environment, overridden by options that are not None. Raises `SettingsRefused`."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from orchestrator.settings import Settings

    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as exc:
        raise SettingsRefused("; ".join(_told(error, given) for error in exc.errors())) from exc
    except SettingsError as exc:  # a variable that should hold JSON
        raise SettingsRefused(str(exc)) from exc


def _told(error: Any, given: dict[str, Any]) -> str:
    text = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return text
    name = str(error["loc"][0])
    return f"{'--' + name.replace('_', '-') if name in given else 'KODOU_' + name.upper()}: {text}"


def open_data_dir(settings: "Settings") -> None:
    """Make the data directory if it is not there yet. Raises `SettingsRefused` if this user cannot keep files in it."""
    path = settings.data_dir
    try:
        path.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as exc:
        msg = f"cannot make the data directory {path}: {exc.strerror}; choose another with --data-dir or KODOU_DATA_DIR"
        raise SettingsRefused(msg) from exc
    if not os.access(path, os.W_OK | os.X_OK):
        msg = (
            f"cannot write to the data directory {path}: run as its owner ({_owner(path)}), "
            "or choose another with --data-dir or KODOU_DATA_DIR"
        )
        raise SettingsRefused(msg)


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # a user id without a name
        return f"uid {path.stat().st_uid}"
