"""`kodou sessions`: what the store holds, and the end of it; a running server notices at once."""

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.data import admin, opened_backend, opened_store
from orchestrator.cli.options import DataDir, Json
from orchestrator.cli.terminal import complain, print_json, print_table, since_told
from orchestrator.errors import KodouError, SessionNotFound

if TYPE_CHECKING:
    from orchestrator.records import Session
    from orchestrator.settings import Settings
    from orchestrator.store.base import Store

app = typer.Typer(help="List and stop sessions.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_sessions(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the sessions that live, oldest first."""

    async def work(settings: "Settings") -> "list[Session]":
        async with opened_store(settings) as store:
            return await _live(store)

    found = admin(data_dir, work)
    if as_json:
        print_json(
            [
                {
                    "id": session.id,
                    "owner": session.owner,
                    "key": session.key_id,
                    "environment": session.environment_id,
                    "state": session.state.value,
                    "network": session.network,
                    "memory_mb": session.resources.memory_mb,
                    "created": session.created_at,
                    "last_used": session.last_used_at,
                    "expires": session.expires_at,
                    "ttl": session.ttl_s,
                }
                for session in found
            ]
        )
        return
    print_table(
        ("ID", "OWNER", "ENVIRONMENT", "STATE", "MEMORY", "CREATED", "LAST USED"),
        (
            (
                session.id,
                session.owner,
                session.environment_id,
                session.state.value,
                f"{session.resources.memory_mb} MB",
                since_told(session.created_at),
                since_told(session.last_used_at),
            )
            for session in found
        ),
    )


@app.command()
def stop(
    ids: Annotated[list[str] | None, typer.Argument(help="As `kodou sessions list` shows them.")] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="Every session of this data directory.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End sessions and their sandboxes. One that has ended already is success."""
    if bool(ids) == all_of_them:
        msg = "name sessions, or --all"
        raise typer.BadParameter(msg)

    async def work(settings: "Settings") -> list[tuple[str, KodouError | None]]:
        async with opened_store(settings) as store:
            wanted = ids or [session.id for session in await _live(store)]
            return [(id, await _stopped(settings, store, id)) for id in dict.fromkeys(wanted)]

    done = admin(data_dir, work)
    if as_json:
        print_json([{"id": id, "stopped": error is None, "detail": error and error.detail} for id, error in done])
    for id, error in done:
        if error is not None:
            complain(f"{id}: {error.detail}")
        elif not as_json:
            typer.echo(f"stopped {id}")
    if any(error for _, error in done):
        raise typer.Exit(1)


async def _live(store: "Store") -> "list[Session]":
    from orchestrator.records import Session, SessionState

    states = tuple(state for state in SessionState if state is not SessionState.CLOSED)
    return await store.list(Session, state=states)


async def _stopped(settings: "Settings", store: "Store", id: str) -> KodouError | None:
    """End one; one that fails does not keep the others."""
    try:
        await _stop(settings, store, id)
    except KodouError as exc:
        return exc
    return None


async def _stop(settings: "Settings", store: "Store", id: str) -> None:
    from orchestrator.records import Session
    from orchestrator.sessions.stopping import stop_session

    session = await store.get(Session, id)
    if session is None:
        msg = "no session has this id"
        raise SessionNotFound(msg)
    # Not the backend that is selected now: the one that started its sandbox.
    own = settings.model_copy(update={"backend": session.sandbox.get("backend", settings.backend)})
    async with opened_backend(own) as backend:
        await stop_session(store, backend, settings.data_dir, id)
