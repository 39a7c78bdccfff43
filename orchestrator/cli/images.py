"""`kodou images`: built environments, listed, shown and pruned; never what a live session or a build holds."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.data import admin, opened_backend, opened_store
from orchestrator.cli.options import DataDir, Json, duration, size
from orchestrator.cli.terminal import bytes_told, clean, print_json, print_table, since_told
from orchestrator.errors import NotFound

if TYPE_CHECKING:
    from orchestrator.environments.images import ImageReport, Inventory, Pruned
    from orchestrator.settings import Settings
    from orchestrator.store.base import Store

Backend = Annotated[
    str | None, typer.Option("--backend", help="Whose images: docker, bubblewrap or process; KODOU_BACKEND if unset.")
]
DRY_RUN = "dry run"  # why `Inventory` keeps what it was only asked about

app = typer.Typer(help="List, show and prune images.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_images(backend: Backend = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the images of a backend."""

    async def work(settings: "Settings") -> "list[ImageReport]":
        async with _opened_inventory(settings) as inventory:
            return await inventory.list()

    found = admin(data_dir, work, backend=backend)
    if as_json:
        print_json([asdict(report) for report in found])
        return
    print_table(
        ("ID", "VERSION", "PACKAGES", "SIZE", "CREATED", "LAST USED", "USES", "IN USE"),
        (
            (
                report.environment_id,
                report.version,
                str(len(report.packages)),
                bytes_told(report.size_bytes),
                since_told(report.created_at),
                since_told(report.last_used_at),
                str(report.uses),
                "yes" if report.in_use else "no",
            )
            for report in found
        ),
    )


@app.command()
def show(
    id: Annotated[str, typer.Argument(help="The environment's id, as `kodou images list` shows it.")],
    lock: Annotated[bool, typer.Option("--lock", help="Print its lock instead, for `kodou setup --lock`.")] = False,
    backend: Backend = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one image: its exact packages, size and use."""

    if lock:
        typer.echo(admin(data_dir, partial(_lock, id), backend=backend))
        return

    async def work(settings: "Settings") -> "ImageReport":
        async with _opened_inventory(settings) as inventory:
            for report in await inventory.list():
                if report.environment_id == id:
                    return report
        msg = f"no image of the environment {id!r} on this backend"
        raise NotFound(msg)

    report = admin(data_dir, work, backend=backend)
    if as_json:
        print_json(asdict(report))
        return
    for name, value in (
        ("id", report.environment_id),
        ("image", report.ref),
        ("version", report.version),
        ("size", bytes_told(report.size_bytes)),
        ("created", report.created_at.isoformat(timespec="seconds")),
        ("last used", f"{report.last_used_at.isoformat(timespec='seconds')} ({since_told(report.last_used_at)})"),
        ("uses", str(report.uses)),
        ("in use", "yes" if report.in_use else "no"),
        *(("package", f"{name} {version}") for name, version in sorted(report.packages.items())),
    ):
        typer.echo(f"{name:<10} {clean(value)}")


@app.command()
def prune(
    older_than: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="Those not used for so long.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(parser=size, metavar="SIZE", help="The longest unused, until the rest fits.")
    ] = None,
    least_used: Annotated[int | None, typer.Option(min=1, metavar="N", help="The N least used.")] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="All that nothing holds.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    backend: Backend = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Remove images that no live session and no build holds. Sets that need them are built again."""
    if older_than is None and budget is None and least_used is None and not all_of_them:
        msg = "say which: --older-than, --budget, --least-used or --all"
        raise typer.BadParameter(msg)

    def pruned(dry_run: bool) -> "list[Pruned]":
        async def work(settings: "Settings") -> "list[Pruned]":
            async with _opened_inventory(settings) as inventory:
                return await inventory.prune(
                    older_than_s=older_than.total_seconds() if older_than is not None else None,
                    budget_bytes=budget,
                    least_used=least_used,
                    all=all_of_them,
                    dry_run=dry_run,
                )

        return admin(data_dir, work, backend=backend)

    if not (dry_run or yes):
        if as_json or not sys.stdin.isatty():
            msg = "nobody is there to be asked: say --yes, or --dry-run"
            raise typer.BadParameter(msg)
        planned = pruned(dry_run=True)
        _tell(planned, "would remove")
        if not planned or not typer.confirm("Remove them?", err=True):
            return
    done = pruned(dry_run=dry_run)
    if as_json:
        print_json([asdict(each) for each in done])
    else:
        _tell(done, "would remove" if dry_run else "removed")


@asynccontextmanager
async def _opened_inventory(settings: "Settings") -> AsyncIterator["Inventory"]:
    from orchestrator.environments.images import Inventory

    async with opened_store(settings) as store:
        if settings.backend == "auto":
            settings = settings.model_copy(update={"backend": await _used_last(store)})
        async with opened_backend(settings) as backend:
            yield Inventory(settings, store, backend)


async def _lock(id: str, settings: "Settings") -> str:
    """The lock of an environment, as JSON on one line; its image need not be there."""
    from orchestrator.records import Environment

    async with opened_store(settings) as store:
        environment = await store.get(Environment, id)
    if environment is None or not environment.document:
        msg = f"no lock of an environment {id!r} is known here"
        raise NotFound(msg)
    return environment.document


async def _used_last(store: "Store") -> str:
    """The backend whose environments this data directory holds: `auto` may take another now than its server did."""
    from orchestrator.records import Environment

    environments = await store.list(Environment)
    return max(environments, key=lambda each: each.last_used_at).backend if environments else "auto"


def _tell(pruned: "list[Pruned]", verb: str) -> None:
    for each in pruned:
        kept = None if each.kept == DRY_RUN else each.kept
        told = f"kept, {kept}" if kept else verb
        typer.echo(f"{told}: {each.environment_id} ({bytes_told(each.size_bytes)}, {each.reason})")
    freed = sum(each.size_bytes for each in pruned if each.kept in (None, DRY_RUN))
    typer.echo(f"{verb} {bytes_told(freed)} in all" if pruned else "nothing to remove")
