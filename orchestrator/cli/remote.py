"""`kodou setup` and `kodou close`: against a server, through the client library; and what the commands beside them share."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, duration
from orchestrator.cli.progress import BuildProgress
from orchestrator.cli.terminal import clean, complain, print_json

if TYPE_CHECKING:
    from kodou import Client, Session

Url = Annotated[
    str | None, typer.Option("--url", envvar="KODOU_URL", help="The server; http://127.0.0.1:8000 if unset.")
]
Token = Annotated[
    str | None, typer.Option("--token", envvar="KODOU_TOKEN", help="An API id; better in the variable than here.")
]
InSession = Annotated[
    str | None, typer.Option("--session", envvar="KODOU_SESSION", help="The session id that setup printed.")
]


def setup(
    dependencies: Annotated[list[str] | None, typer.Argument(help="Such as numpy or 'requests>=2.31'.")] = None,
    python: Annotated[str | None, typer.Option("--python", help="Interpreter version, such as 3.12.")] = None,
    ttl: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="Idleness until the session ends.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="none or egress; egress where the operator allows it.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable in the sandbox.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Resolve again instead of reusing.")] = False,
    lock: Annotated[
        typer.FileText | None, typer.Option(metavar="FILE", help="An environment's lock, in place of dependencies.")
    ] = None,
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Make a session with these dependencies; its id is the last line of the output."""
    options: dict[str, Any] = {}
    if ttl is not None:
        options["ttl"] = int(ttl.total_seconds())
    if network is not None:
        options["network"] = network
    if env:
        options["env"] = dict(assignment(item) for item in env)
    if refresh:
        options["refresh"] = True
    if lock is not None:
        options["lock"] = parsed(lock.name, lock.read())
    with connected(url, token) as client:
        session = set_up(client, dependencies or [], python, options)
    environment = session.environment
    assert environment is not None  # noqa: S101  a session that setup made has one
    if as_json:
        print_json(
            {
                "sessionid": session.id,
                "expires": session.expires,
                "environment": {
                    "id": environment.id,
                    "language": environment.language,
                    "version": environment.version,
                    "packages": environment.packages,
                    "reused": environment.reused,
                },
            }
        )
        return
    packages = ", ".join(f"{name} {version}" for name, version in environment.packages.items()) or "no packages"
    typer.echo(f"Python {environment.version} with {clean(packages)} ({environment.id})", err=True)
    typer.echo(session.id)


def close(
    sessionids: Annotated[
        list[str] | None, typer.Argument(metavar="[SESSIONID]...", help="As setup printed them; else KODOU_SESSION.")
    ] = None,
    session: InSession = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """End sessions and their sandboxes; one that has ended already is success."""
    named = sessionids or [known_session(session)]
    with connected(url, token) as client:
        from kodou import protocol

        for sessionid in named:
            protocol.read_closed(client.send(protocol.close_request(sessionid)))


def set_up(client: "Client", dependencies: list[str], python: str | None, options: dict[str, Any]) -> "Session":
    """One setup, with its progress on a terminal."""
    if not BuildProgress.fits():
        return client.setup(dependencies, python, **options)
    with BuildProgress() as progress:
        return client.setup(dependencies, python, progress=progress.show, **options)


@contextmanager
def connected(url: str | None, token: str | None) -> Iterator["Client"]:
    """A client, whose errors are told as by `told`."""
    with told():
        from kodou import Client

        with Client(url, token) as client:
            yield client


@contextmanager
def told() -> Iterator[None]:
    """Turn the client's errors into a message and exit code 1."""
    import kodou
    from kodou.errors import BuildFailed, CallFailed

    try:
        yield
    except kodou.KodouError as exc:
        if isinstance(exc, CallFailed):
            print_output(exc.stdout, exc.stderr)
        if isinstance(exc, kodou.RemoteError):
            print_output(exc.remote_traceback.rstrip().removesuffix(exc.detail))  # which comes next
        if isinstance(exc, BuildFailed):
            print_output(exc.log)
        complain(exc.detail)
        raise typer.Exit(1) from exc


def print_output(*texts: str) -> None:
    for text in texts:
        if text:
            sys.stderr.write(clean(text) if text.endswith("\n") else clean(text) + "\n")


def known_session(session: str | None) -> str:
    if session is None:
        msg = "no session: name one with --session or KODOU_SESSION; `kodou setup` makes one"
        raise typer.BadParameter(msg)
    return session


def parsed_namepath(text: str) -> Any:
    """A dotted name as it is; a JSON list as that."""
    return parsed("NAMEPATH", text) if text.lstrip().startswith("[") else text


def assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        msg = f"{text!r} is not NAME=VALUE"
        raise typer.BadParameter(msg)
    return name, value


def parsed(what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        msg = f"{what} is not JSON: {text} (a string is written '\"{text}\"')"
        raise typer.BadParameter(msg) from exc
