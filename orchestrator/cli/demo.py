"""`kodou demo`: to see that all of it works here."""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.remote import told
from orchestrator.cli.serve import curl
from orchestrator.errors import KodouError

ANSWER = 12

NEXT = """
Next:
  {kodou} keys create me     makes a key; the last line is its API id
  {kodou} serve              runs a server on http://127.0.0.1:8000, its API documented under /docs

  export KODOU_URL=http://127.0.0.1:8000 KODOU_TOKEN=<the API id>
  export KODOU_SESSION=$({kodou} setup numpy)
  {kodou} call numpy.linalg.norm '[3, 4]'

or without the client:
{curl}

README.md goes on from here: the protocol, the Python client, and what the sandboxes promise."""


def demo(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", envvar="KODOU_DATA_DIR", help="Keep what it makes here; else in a temporary directory."
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            envvar="KODOU_BACKEND", help="auto, docker, bubblewrap or process; bubblewrap if it works here, else auto."
        ),
    ] = None,
) -> None:
    """Start a server, set up numpy, call it, print the answer and stop again."""
    import signal

    from orchestrator.cli.demonstration import demonstrate

    # Unwind on SIGTERM too, so that the server is stopped and its directory removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with told():
        value = demonstrate(data_dir, backend)
    typer.echo(value)
    if value != ANSWER:
        msg = f"the answer should be {ANSWER}"
        raise KodouError(msg)
    # As it was called, so that the lines can be copied where it is not on the PATH.
    kodou = "kodou" if shutil.which("kodou") else sys.argv[0]
    typer.echo(NEXT.format(kodou=kodou, curl=curl("$KODOU_URL", "$KODOU_TOKEN")), err=True)
