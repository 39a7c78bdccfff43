"""The keys that the server signs API ids and session ids with: `kodou keys signing`, `rotate` and `retire`."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.data import admin
from orchestrator.cli.options import DataDir, Json
from orchestrator.cli.terminal import print_json, print_table, since_told

if TYPE_CHECKING:
    from orchestrator.auth.signing_keys import SigningKey
    from orchestrator.auth.tokens import Tokens
    from orchestrator.settings import Settings


class Kinds(StrEnum):
    API = "api"
    SESSION = "session"
    ALL = "all"


def signing(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the keys that sign API ids and session ids; never what is in them."""

    async def work(settings: "Settings") -> "list[SigningKey]":
        return _tokens(settings).signing_keys()

    _show(admin(data_dir, work), as_json)


def rotate(
    kind: Annotated[Kinds, typer.Option(help="What to sign with a new key: api, session or all.")] = Kinds.ALL,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Sign with new keys from now on. What the old ones signed stays good until they are retired."""

    async def work(settings: "Settings") -> "list[SigningKey]":
        from orchestrator.auth.tokens import KINDS

        tokens = _tokens(settings)
        made = {(each, tokens.rotate(each)) for each in KINDS if kind in (each, Kinds.ALL)}
        return [key for key in tokens.signing_keys() if (key.kind, key.kid) in made]

    _show(admin(data_dir, work), as_json)


def retire(
    name: Annotated[str, typer.Argument(help="The signing key, as `kodou keys signing` shows it.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Remove an old signing key: all API ids, or session ids, that it signed end now. Never the newest of its kind."""

    async def work(settings: "Settings") -> None:
        from orchestrator.auth.generation import Generation
        from orchestrator.auth.tokens import KINDS
        from orchestrator.errors import NotFound

        kind, _, kid = name.partition("-")
        known = next((each for each in KINDS if each == kind), None)
        if known is None:
            msg = f"there is no signing key {name!r}: `kodou keys signing` lists them"
            raise NotFound(msg)
        _tokens(settings).retire(known, kid)
        Generation(settings.data_dir).bump()  # after it: a running server then forgets what it has verified

    admin(data_dir, work)
    if as_json:
        print_json({"name": name})
    else:
        typer.echo(f"retired {name}")


def _tokens(settings: "Settings") -> "Tokens":
    from orchestrator.auth.tokens import Tokens

    return Tokens.load(settings.data_dir)


def _show(keys: "Sequence[SigningKey]", as_json: bool) -> None:
    if as_json:
        print_json([{"name": k.name, "kind": k.kind, "created": k.created_at, "signs": k.signs} for k in keys])
        return
    print_table(
        ("NAME", "SIGNS", "CREATED", "STATE"),
        (
            (
                key.name,
                f"{'API' if key.kind == Kinds.API else 'session'} ids",
                since_told(key.created_at),
                "signs" if key.signs else "verifies",
            )
            for key in keys
        ),
    )
