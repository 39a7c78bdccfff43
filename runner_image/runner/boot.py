"""Starts the runner: `python -I boot.py <socket path>`.

The package is loaded under a private name: a user's package called `runner` stays importable, and nothing of ours is
importable by accident. The greeting goes out before most of it is imported, so that both sides prepare at once.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, SourceFileLoader

NAME = "_kodou_runner"


def load() -> None:
    """Make this directory importable as the package `_kodou_runner`."""
    # (importlib.util, which has this as a function, takes longer to import than all that is done here.)
    directory = __file__.rpartition("/")[0] or "."
    path = directory + "/__init__.py"
    loader = SourceFileLoader(NAME, path)
    spec = ModuleSpec(NAME, loader, origin=path, is_package=True)
    package = type(sys)(NAME)
    package.__spec__ = spec
    package.__loader__ = loader
    package.__file__ = path
    package.__package__ = NAME
    package.__path__ = spec.submodule_search_locations = [directory]
    sys.modules[NAME] = package
    loader.exec_module(package)


def main(path: str) -> None:
    sys.dont_write_bytecode = True  # the directory is mounted read-only
    load()
    control = import_module(NAME + ".link").first_connection(path)
    run = import_module(NAME + ".supervisor").run
    sys.dont_write_bytecode = False
    run(path, control)


if __name__ == "__main__":
    socket_path = sys.argv[1]
    sys.argv[:] = [""]  # what user code sees of it
    main(socket_path)
