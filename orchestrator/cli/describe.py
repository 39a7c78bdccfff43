"""`kodou describe`: what there is to call."""

import json
from typing import Annotated, Any

import typer

from orchestrator.cli.options import Json
from orchestrator.cli.remote import InSession, Token, Url, connected, known_session, parsed_namepath
from orchestrator.cli.terminal import clean, print_json, print_table

_MEMBERS = 1000  # as many as a server tells at once


def describe(
    namepath: Annotated[
        str, typer.Argument(help="Such as numpy.linalg, or a JSON list; without it, all that can be imported.")
    ] = "",
    session: InSession = None,
    prefix: Annotated[str, typer.Option(help="Only members that begin so.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Members that begin with _ too.")] = False,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Tell what a module, class or function offers, without running it."""
    members: dict[str, Any] = {
        "sessionid": known_session(session),
        "namepath": parsed_namepath(namepath),
        "prefix": prefix,
        "private": private,
        "limit": _MEMBERS,
    }
    with connected(url, token) as client:
        from kodou import protocol
        from kodou.messages import Request

        request = Request("POST", "/environment/python/describe", json.dumps(members).encode())
        described = protocol.read_call(client.send(request)).value
    if as_json:
        print_json(described)
    else:
        _print(described)


def _print(described: dict[str, Any]) -> None:
    if described["name"]:
        typer.echo(clean(described["name"] + described.get("signature", "")))
    if "doc" in described:
        typer.echo("\n" + clean(described["doc"]) + "\n")
    rows = [
        (member["name"] + member.get("signature", "").partition("\n")[0], member["kind"], member.get("summary", ""))
        for member in described["members"]
    ]
    if rows:
        print_table(("name", "kind", ""), rows)
    if described.get("truncated"):
        typer.echo(f"kodou: these are the first {_MEMBERS}; --prefix picks others", err=True)
