"""Turns an interpreter that knows no packages into an environment's own.

For a start behind rules (`landlock`): in a virtual environment's interpreter its `.pth` files run before any line of ours
does, and the interpreter itself is a file that a package may have replaced. So one from outside of it is started, without
packages, and becomes the environment's once the rules hold.
"""

import site
import sys


def enter(directory: str) -> None:
    """From here on all is as if `<directory>/bin/python` had been started; its `.pth` files run in here."""
    executable = directory + "/bin/python"
    if sys._base_executable == sys.executable:  # type: ignore[attr-defined]  # before 3.11, in virtual environments
        sys._base_executable = executable  # type: ignore[attr-defined]
    sys.executable = executable
    sys.prefix = sys.exec_prefix = directory
    site.main()
