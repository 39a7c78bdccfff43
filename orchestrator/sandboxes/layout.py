"""Where things lie inside a sandbox, whichever backend made it (ARCHITECTURE.md)."""

LIB = "/opt/kodou/lib"  # runner and builder
ENV = "/opt/kodou/env"  # the environment
LINK = "/run/kodou"  # directory of the link's socket
BUILD = "/build"  # what a builder sandbox is given
INDEX = "/run/kodou-index"  # directory of the index proxy's socket
TMP = "/tmp"  # noqa: S108

RUNNER = (f"{LIB}/runner/boot.py", f"{LINK}/s")
RUNNER_COMMAND = (f"{ENV}/bin/python", "-I", *RUNNER)
BARE_PYTHON = f"{LIB}/python/bin/python"  # no packages (`library`, Dockerfile.runner)
SHARED_COMMAND = (BARE_PYTHON, "-I", *RUNNER, ENV)  # `share=<uid>` follows (`runner/boot.py`)
LANDLOCK = f"{LIB}/runner/landlock.py"
BUILDER_COMMAND = ("-I", "-S", f"{LIB}/builder/boot.py")  # after the interpreter

VARIABLES = {"PATH": f"{ENV}/bin:/usr/local/bin:/usr/bin:/bin", "HOME": TMP, "TMPDIR": TMP, "LANG": "C.UTF-8"}
