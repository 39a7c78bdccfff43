"""docs/cli.md tells of every command and every option, and of none that is not there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from orchestrator.cli import app

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text()
SECTIONS = {
    re.match(r"kodou( [a-z]+)+", section)[0]: section  # type: ignore[index]
    for section in TEXT.split("\n## ")[1:]
}


def commands(group: object = None, name: str = "kodou") -> Iterator[tuple[str, set[str]]]:
    """Full name and options of each command."""
    group = typer.main.get_command(app) if group is None else group
    for part, command in group.commands.items():  # type: ignore[attr-defined]
        full = f"{name} {part}"
        if hasattr(command, "commands"):
            yield from commands(command, full)
        else:
            options = {option for parameter in command.params for option in parameter.opts if option.startswith("-")}
            yield full, options - {"--help"}


@pytest.mark.parametrize(
    ("command", "options"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_section_tells_of_each_option(command: str, options: set[str]) -> None:
    assert {option for option in options if f"`{option}`" not in SECTIONS[command]} == set()


def test_no_section_tells_of_what_is_not_there() -> None:
    assert set(SECTIONS) == {command for command, _ in commands()}
    known = {option for _, options in commands() for option in options}
    known |= {"--help", "--version", "--install-completion", "--show-completion"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= known
