"""What commands print: results on standard output, everything else on standard error."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

_UNITS = ("B", "kB", "MB", "GB", "TB")


def complain(text: str) -> None:
    """One line on standard error."""
    typer.echo(f"kodou: {' '.join(clean(text).split())}", err=True)


def clean(text: str) -> str:
    """Text of others without control characters: no package may steer the terminal with its name or its log."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def print_json(value: Any) -> None:
    """On one line; datetimes as ISO 8601, sets sorted."""
    typer.echo(json.dumps(value, ensure_ascii=False, default=_plain))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns for a reader; never cut short where a program reads."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(clean(cell), overflow="fold") for cell in row))
    Console(width=None if sys.stdout.isatty() else 10_000, soft_wrap=not sys.stdout.isatty()).print(table)


def bytes_told(count: int) -> str:
    """`12.3 MB`: powers of 1000."""
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def since_told(moment: datetime | None) -> str:
    """`3 min ago`; `-` for never."""
    if moment is None:
        return "-"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)
