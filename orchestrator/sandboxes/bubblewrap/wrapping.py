"""Words to put before a command, by which it gives up the server's rights and limits itself. (util-linux)"""

import functools
import resource
import shutil
from collections.abc import Mapping

TOOLS_PATH = "/usr/local/bin:/usr/bin:/bin"


def as_user(uid: int | None) -> list[str]:
    """Run as this user and group and no other; None: as who this process is. Raises `FileNotFoundError`.

    (`Popen` could do it, but would then copy this process instead of borrowing it: ten times as slow for a large one.)
    """
    if uid is None:
        return []
    return [_tool("setpriv"), f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", "--"]


def limited(limits: Mapping[str, int]) -> list[str]:
    """Run under limits, by the names of `prlimit`, and never over this process' own. Raises `FileNotFoundError`.

    The command limits itself, as to limit another's process takes a right (CAP_SYS_RESOURCE) that root in a container
    may lack, and as code between fork and exec is no thing for a process with threads.
    """
    words = [_tool("prlimit")]
    for name, value in limits.items():
        _, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
        within = value if hard == resource.RLIM_INFINITY else min(value, hard)
        words.append(f"--{name}={within}:{within}")
    return [*words, "--"]


@functools.cache
def _tool(name: str) -> str:
    path = shutil.which(name, path=TOOLS_PATH)
    if path is None:
        msg = f"`{name}` is not installed (package `util-linux`)"
        raise FileNotFoundError(msg)
    return path
