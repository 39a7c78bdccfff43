"""The builder's command line: which command, with which paths."""

import argparse
import sys
from pathlib import Path
from typing import Sequence

from . import install, lock, probe
from .uv import Index, Uv


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "probe":
        return probe.run(sys.stdout)
    index = Index(options.index_url, options.index_proxy, options.ca) if options.index_url else None
    if options.command == "install":
        return install.run(Uv(options.uv, index), options.files, options.env, sys.stdout)
    return lock.run(Uv(options.uv, index), options.requirements, options.exclude_newer)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="builder", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("probe", help="print what this interpreter is, as one line of JSON")

    installing = commands.add_parser("install", help="make a virtual environment out of local files")
    installing.add_argument("--files", type=Path, required=True, help="directory of wheels and sdists")
    installing.add_argument("--env", type=Path, required=True, help="where the environment goes")
    _add_uv(installing, index_required=False)

    locking = commands.add_parser("lock", help="resolve requirements, building sdists where that is needed")
    locking.add_argument("--requirements", type=Path, required=True)
    locking.add_argument("--exclude-newer")
    _add_uv(locking, index_required=True)
    return parser


def _add_uv(parser: argparse.ArgumentParser, *, index_required: bool) -> None:
    parser.add_argument("--uv", type=Path, required=True, help="the uv executable")
    parser.add_argument("--index-url", required=index_required)
    parser.add_argument("--index-proxy", type=Path, help="Unix socket of an HTTP proxy that reaches the index")
    parser.add_argument("--ca", type=Path, help="PEM file of authorities for the index")
