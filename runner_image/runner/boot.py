"""Starts the runner: `python -I boot.py <socket path> [<environment> [share=<uid>] <rule>…]`.

With an environment, the interpreter is one that knows no packages, and enters that environment once the rules hold
(`landlock`, `environment`); without, it is the environment's own. With `share` it is process 1 of a shared sandbox (`host`),
and started as root.

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


def main(path: str, environment: str = "", *rules: str) -> None:
    sys.dont_write_bytecode = True  # the directory is mounted read-only
    load()
    share = ""
    if rules and rules[0].startswith("share="):
        share, rules = rules[0][6:], rules[1:]
    if rules:
        import_module(NAME + ".landlock").restrict_to(rules)
    if share:
        import_module(NAME + ".privileges").keep_switching(int(share))
    if environment:
        import_module(NAME + ".environment").enter(environment)
    control = import_module(NAME + ".link").first_connection(path)
    run = import_module(NAME + (".host" if share else ".supervisor")).run
    sys.dont_write_bytecode = False
    run(path, control)


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.argv[:] = [""]  # what user code sees of it
    main(*words)
