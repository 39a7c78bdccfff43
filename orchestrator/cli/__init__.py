"""The command line. Each command imports what it needs when it runs, so that help and `kodou call` start at once."""

import atexit
import gc
import sys
from collections.abc import Sequence

import typer

from orchestrator.cli import calls, demo, describe, doctor, driver, images, keys, remote, serve, sessions
from orchestrator.cli.options import SettingsRefused
from orchestrator.cli.terminal import complain
from orchestrator.errors import KodouError

USAGE_ERROR = 2

# Rich help would cost half a second at every start.
app = typer.Typer(
    name="kodou",
    help="Call functions of any Python library, sandboxed, by name.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("driver")(driver.driver)
app.add_typer(keys.app, name="keys")
app.command("setup")(remote.setup)
app.command("call", context_settings={"ignore_unknown_options": True})(calls.call)  # -3 is an argument of the call
app.command("kompose")(calls.kompose)
app.command("describe")(describe.describe)
app.command("close")(remote.close)
app.add_typer(images.app, name="images")
app.add_typer(sessions.app, name="sessions")
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Call functions of any Python library, sandboxed, by name."""
    if show:
        from orchestrator import __version__

        typer.echo(__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 failed, 2 asked for in a wrong way."""
    # Else the interpreter looks through all that was imported for garbage before it ends: as long as a quarter of the imports.
    atexit.register(gc.freeze)
    try:
        app(args=arguments, prog_name="kodou")
    except SettingsRefused as exc:
        complain(str(exc))
        sys.exit(USAGE_ERROR)
    except KodouError as exc:
        complain(exc.detail)
        sys.exit(1)
    except OSError as exc:  # a taken port, a full disk, a file of another user's
        complain(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc))
        sys.exit(1)
