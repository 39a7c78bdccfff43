"""`kodou doctor`: what this machine can hold of what kodou promises, what it cannot, and what to do about it."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.data import quiet
from orchestrator.cli.options import DataDir, Json, load_settings
from orchestrator.cli.terminal import clean, print_json

if TYPE_CHECKING:
    from orchestrator.cli.diagnosis import Finding
    from orchestrator.settings import Settings


def doctor(
    backend: Annotated[
        str | None, typer.Option(help="The one to serve with; KODOU_BACKEND, or auto, if unset.")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Say what works here and what does not. Exit code 1: the selected backend cannot serve."""
    import asyncio

    settings = load_settings(backend=backend, data_dir=data_dir)
    quiet(settings)
    found = asyncio.run(_told(settings, silent=as_json))
    serves = all(finding.held for finding in found if finding.needed)
    if as_json:
        print_json({"serves": serves, "findings": [asdict(finding) for finding in found]})
    else:
        typer.echo("\nThe server can run here." if serves else "\nThe server cannot run here: mend what is marked !!.")
    if not serves:
        raise typer.Exit(1)


async def _told(settings: "Settings", *, silent: bool) -> "list[Finding]":
    """All findings; printed as they come, because some take a while."""
    from orchestrator.cli.diagnosis import findings

    found: list[Finding] = []
    async for finding in findings(settings):
        if not silent:
            if not found or found[-1].about != finding.about:
                typer.echo(f"\n{finding.about}")
            mark = "ok" if finding.held else "!!" if finding.needed else "--"
            typer.echo(f"  {mark}  {finding.name}: {clean(finding.detail)}")
        found.append(finding)
    return found
