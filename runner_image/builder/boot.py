"""Runs a builder command: `python3 -I /opt/kodou/lib/builder/boot.py probe|install|lock …`.

The package is loaded under a private name, so that nothing of it is importable by accident by what a build runs.
"""

import importlib
import importlib.util
import sys
from pathlib import Path

NAME = "_kodou_builder"


def load() -> None:
    """Make this directory importable as the package `_kodou_builder`."""
    directory = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        NAME, str(directory / "__init__.py"), submodule_search_locations=[str(directory)]
    )
    if spec is None or spec.loader is None:
        msg = f"no package at {directory}"
        raise ImportError(msg)
    package = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    sys.dont_write_bytecode = True  # the directory is mounted read-only
    load()
    sys.exit(importlib.import_module(NAME + ".command").main(sys.argv[1:]))
