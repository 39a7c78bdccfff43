"""`kodou call` and `kodou kompose`: run functions in a session, and print what comes of it."""

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.options import Json, duration
from orchestrator.cli.remote import InSession, Token, Url, assignment, known_session, parsed, print_output, told
from orchestrator.cli.terminal import print_json

_JSON = "application/json"

Keep = Annotated[bool, typer.Option("--keep", help="Keep the value in the session, and print a reference to it.")]
Files = Annotated[
    list[str] | None,
    typer.Option("--file", metavar="NAME=PATH", help='A file that arguments name: {"$file": "NAME"}.'),
]
Accept = Annotated[
    str | None, typer.Option(metavar="TYPE", help="The bare value in a form such as text/csv or image/png.")
]
Output = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Where --accept puts the value; else standard output.")
]


def call(
    namepath: Annotated[str, typer.Argument(help='Such as math.sqrt, or a JSON list: \'["math", "sqrt"]\'.')],
    args: Annotated[
        list[str] | None, typer.Argument(help="Arguments, each a JSON value: 9 '\"text\"' '[1, 2]'.")
    ] = None,
    session: InSession = None,
    kwarg: Annotated[list[str] | None, typer.Option(metavar="NAME=JSON", help="A keyword argument.")] = None,
    typed: Annotated[
        str | None, typer.Option("--tuple", metavar="JSON", help="Arguments with types, in place of ARGS.")
    ] = None,
    timeout: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="Such as 20s; else the server's.")
    ] = None,
    keep: Keep = False,
    file: Files = None,
    accept: Accept = None,
    output: Output = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Call a function in a session and print its value as JSON; what it printed goes to standard error."""
    from kodou.protocol import call_path, timeout_member

    members: dict[str, Any] = {
        "sessionid": known_session(session),
        **timeout_member(timeout.total_seconds() if timeout is not None else None),
        "namepath": parsed("NAMEPATH", namepath) if namepath.lstrip().startswith("[") else namepath,
    }
    if typed is None or args:
        members["args"] = [parsed("an argument", text) for text in args or []]
    if typed is not None:
        members["tuple"] = parsed("--tuple", typed)
    if kwarg:
        members["kwargs"] = {name: parsed(f"--kwarg {name}", text) for name, text in map(assignment, kwarg)}
    if keep:
        members["keep"] = True
    _run(call_path("python"), members, file or [], accept, output, url, token, as_json=as_json)


def kompose(
    composition: Annotated[
        typer.FileText, typer.Argument(help="A file with the composition as JSON; - is standard input.")
    ],
    session: InSession = None,
    file: Files = None,
    accept: Accept = None,
    output: Output = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Run a composition (a pipeline, pipes or a list operation) and print its value as JSON."""
    members = parsed(composition.name, composition.read())
    if isinstance(members, dict) and session is not None:
        members.setdefault("session", session)
    _run("/kompose", members, file or [], accept, output, url, token, as_json=as_json)


def _run(
    path: str,
    members: Any,
    files: list[str],
    accept: str | None,
    output: Path | None,
    url: str | None,
    token: str | None,
    *,
    as_json: bool,
) -> None:
    contents = {name: Path(place).read_bytes() for name, place in map(assignment, files)}
    if output is not None and accept is None:
        msg = "--output is for a value in a form: say which with --accept"
        raise typer.BadParameter(msg)
    with told():
        from kodou import Client, protocol
        from kodou.messages import Request

        request = Request("POST", path, _body(members, contents), accept or _JSON)
        with Client(url, token) as client:
            response = client.send(request)
        # What failed is told in JSON, whatever was asked for.
        if accept is not None and not response.headers.get("content-type", "").split(";")[0].endswith("json"):
            _write(response.body, output)
            return
        reply = protocol.read_call(response)
    print_output(reply.stdout, reply.stderr)
    print_json({"value": reply.value, "type": reply.type, "ms": reply.ms} if as_json else reply.value)


def _body(members: Any, contents: Mapping[str, bytes]) -> Any:
    from kodou.multipart import form

    encoded = json.dumps(members).encode()
    return form(encoded, contents) if contents else encoded


def _write(content: bytes, output: Path | None) -> None:
    if output is None:
        typer.get_binary_stream("stdout").write(content)
    else:
        output.write_bytes(content)
