"""`kodou call` and `kodou kompose`: run functions in a session, and print what comes of it."""

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, duration
from orchestrator.cli.remote import (
    InSession,
    Token,
    Url,
    assignment,
    connected,
    known_session,
    parsed,
    parsed_namepath,
    print_output,
)
from orchestrator.cli.terminal import clean, print_json

if TYPE_CHECKING:
    from kodou import Client, Reply
    from kodou.messages import Request
    from kodou.multipart import Form

Keep = Annotated[bool, typer.Option("--keep", help="Keep the value in the session, and print a reference to it.")]
Files = Annotated[
    list[str] | None,
    typer.Option("--file", metavar="NAME=PATH", help='A file that arguments name: {"$file": "NAME"}.'),
]
Accept = Annotated[
    str | None, typer.Option(metavar="TYPE", help="The bare value in a form such as text/csv or image/png.")
]
Into = Annotated[
    Path | None,
    typer.Option("--output", metavar="PATH", help="Where --accept puts the value; else standard output."),
]
Stream = Annotated[
    bool, typer.Option("--stream", help="Print output and the items of an iterator as they come, then the result.")
]


def call(
    namepath: Annotated[
        str | None, typer.Argument(help='Such as math.sqrt, or a JSON list: \'["math", "sqrt"]\'.')
    ] = None,
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
    drop: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A reference to drop, such as r1, before the call runs.")
    ] = None,
    stream: Stream = False,
    file: Files = None,
    accept: Accept = None,
    output: Into = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Call a function in a session and print its value as JSON; what it printed goes to standard error."""
    from kodou.protocol import call_path, timeout_member

    if namepath is None and not drop:
        msg = "name what to call, or what to --drop"
        raise typer.BadParameter(msg)
    members: dict[str, Any] = {
        "sessionid": known_session(session),
        **timeout_member(timeout.total_seconds() if timeout is not None else None),
    }
    if namepath is not None:
        members["namepath"] = parsed_namepath(namepath)
    if args or (typed is None and namepath is not None):
        members["args"] = [parsed("an argument", text) for text in args or []]
    if typed is not None:
        members["tuple"] = parsed("--tuple", typed)
    if kwarg:
        members["kwargs"] = {name: parsed(f"--kwarg {name}", text) for name, text in map(assignment, kwarg)}
    if keep:
        members["keep"] = True
    if drop:
        members["drop"] = drop
    shown = Shown(accept, output, stream=stream, as_json=as_json)
    with connected(url, token) as client:
        shown.run(client, call_path("python"), _body(members, file or []))


def kompose(
    composition: Annotated[
        typer.FileText, typer.Argument(help="A file with the composition as JSON; - is standard input.")
    ],
    session: InSession = None,
    stream: Stream = False,
    file: Files = None,
    accept: Accept = None,
    output: Into = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Run a composition (a pipeline, pipes or a list operation) and print its value as JSON."""
    members = parsed(composition.name, composition.read())
    if isinstance(members, dict) and session is not None:
        members.setdefault("session", session)
    shown = Shown(accept, output, stream=stream, as_json=as_json)
    with connected(url, token) as client:
        shown.run(client, "/kompose", _body(members, file or []))


@dataclass
class Shown:
    """How what comes of a call is shown. Raises BadParameter: two ways at once."""

    accept: str | None
    output: Path | None
    stream: bool
    as_json: bool

    def __post_init__(self) -> None:
        if self.output is not None and self.accept is None:
            msg = "--output is for a value in a form: say which with --accept"
            raise typer.BadParameter(msg)
        if self.stream and self.accept is not None:
            msg = "--stream prints JSON, and --accept another form: choose one"
            raise typer.BadParameter(msg)

    def run(self, client: "Client", path: str, body: "bytes | Form") -> None:
        from kodou.messages import EVENT_STREAM, JSON, Request

        request = Request("POST", path, body, EVENT_STREAM if self.stream else self.accept or JSON)
        if self.stream:
            self._follow(client, request)
        else:
            self._print(client, request)

    def _print(self, client: "Client", request: "Request") -> None:
        from kodou import protocol

        response = client.send(request)
        # What failed is told in JSON, whatever was asked for.
        if self.accept is not None and not response.headers.get("content-type", "").split(";")[0].endswith("json"):
            _write(response.body, self.output)
            return
        reply = protocol.read_call(response)
        print_output(reply.stdout, reply.stderr)
        self._result(reply)

    def _follow(self, client: "Client", request: "Request") -> None:
        from kodou import Item, Output, Reply
        from kodou.stream import CallReader

        printed = ""
        try:
            for told in client.stream(request, CallReader(plain=True)):
                if isinstance(told, Output):
                    printed = clean(told.text)
                    typer.echo(printed, nl=False, err=True)
                elif isinstance(told, Item):
                    print_json({"index": told.index, "value": told.value} if self.as_json else told.value)
                elif isinstance(told, Reply) and (told.items is None or self.as_json):
                    self._result(told)
        finally:
            typer.echo(nl=bool(printed) and not printed.endswith("\n"), err=True)

    def _result(self, reply: "Reply") -> None:
        print_json({"value": reply.value, "type": reply.type, "ms": reply.ms} if self.as_json else reply.value)


def _body(members: Any, files: list[str]) -> "bytes | Form":
    from kodou.multipart import form

    contents = {name: Path(place).read_bytes() for name, place in map(assignment, files)}
    encoded = json.dumps(members).encode()
    return form(encoded, contents) if contents else encoded


def _write(content: bytes, output: Path | None) -> None:
    if output is None:
        typer.get_binary_stream("stdout").write(content)
    else:
        output.write_bytes(content)
