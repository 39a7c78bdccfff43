"""`kodou keys`: made, listed and revoked on the data directory; a running server notices at once."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import signing
from orchestrator.cli.data import admin, opened_keys
from orchestrator.cli.options import DataDir, Json, duration, names
from orchestrator.cli.terminal import print_json, print_table, since_told

if TYPE_CHECKING:
    from orchestrator.auth.keys import NewKey
    from orchestrator.records import Key
    from orchestrator.settings import Settings

app = typer.Typer(help="Make, list and revoke keys.", no_args_is_help=True, rich_markup_mode=None)
app.command("signing")(signing.signing)
app.command("rotate")(signing.rotate)
app.command("retire")(signing.retire)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    scopes: Annotated[
        frozenset[str], typer.Option(parser=names, metavar="SCOPES", help="Some of setup, call, egress, admin.")
    ] = "setup,call",  # type: ignore[assignment]  # parsed as if it had been typed
    expires: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="Such as 30d; else it does not.")
    ] = None,
    owner: Annotated[str | None, typer.Option(help="Whose sessions it reaches; else one of the key's name.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its API id, the token for requests, is the last line; its secret is never shown again."""

    async def work(settings: "Settings") -> "NewKey":
        async with opened_keys(settings) as keys:
            return await keys.create(name, scopes=scopes, expires_in=expires, owner=owner)

    new = admin(data_dir, work)
    if as_json:
        print_json(
            {
                "id": new.key.id,
                "name": new.key.name,
                "api_id": new.api_id,
                "key": new.key.id,
                "secret": new.secret,
                "scopes": new.key.scopes,
                "expires": new.key.expires_at,
            }
        )
        return
    typer.echo(f"key     {new.key.id}")
    typer.echo(f"secret  {new.secret}")
    typer.echo(f"scopes  {','.join(sorted(new.key.scopes))}")
    typer.echo(f"expires {new.key.expires_at.isoformat() if new.key.expires_at else 'never'}")
    typer.echo("API id, for `Authorization: Bearer`:")
    typer.echo(new.api_id)


@app.command("list")
def list_keys(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List all keys, revoked and expired ones too; never their secrets."""

    async def work(settings: "Settings") -> "list[Key]":
        async with opened_keys(settings) as keys:
            return await keys.list()

    found = admin(data_dir, work)
    if as_json:
        print_json(
            [
                {
                    "id": key.id,
                    "name": key.name,
                    "owner": key.owner,
                    "scopes": key.scopes,
                    "created": key.created_at,
                    "expires": key.expires_at,
                    "revoked": key.revoked_at,
                    "state": _state(key),
                }
                for key in found
            ]
        )
        return
    print_table(
        ("ID", "NAME", "OWNER", "SCOPES", "CREATED", "STATE"),
        (
            (key.id, key.name, key.owner, ",".join(sorted(key.scopes)), since_told(key.created_at), _state(key))
            for key in found
        ),
    )


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(help="The key's id, as `kodou keys list` shows it.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End a key. Requests with it are refused from now on; again is success."""

    async def work(settings: "Settings") -> "Key":
        async with opened_keys(settings) as keys:
            return await keys.revoke(id)

    key = admin(data_dir, work)
    if as_json:
        print_json({"id": key.id, "name": key.name, "revoked": key.revoked_at})
    else:
        typer.echo(f"revoked {key.name} ({key.id})")


def _state(key: "Key") -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        return "expired"
    return "valid"
