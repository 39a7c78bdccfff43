"""What nobody turned into an error of ours: a host that runs short, which passes, or else a defect."""

import errno

from orchestrator.errors import Defect, KodouError, StoreBusy, Unavailable
from orchestrator.telemetry import log

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS})
_NO_THREAD = "can't start new thread"  # Python raises a RuntimeError for it


def ours(error: Exception, doing: str) -> KodouError:
    """What to tell the caller; the log has the rest. For edges, where any error may arrive."""
    short = _shortage(error)
    if short is None:
        log.exception("unforeseen", doing=doing, exc_info=error)
        return Defect(f"{type(error).__name__}: {error}")
    log.warning("the host runs short", doing=doing, error=repr(error))
    return short


def _shortage(error: Exception) -> Unavailable | None:
    number = error.errno if isinstance(error, OSError) else None
    if number in FULL:
        return StoreBusy("the server's disk is full: try again later")
    no_thread = isinstance(error, RuntimeError) and _NO_THREAD in str(error)
    if number in _SHORT or no_thread or isinstance(error, MemoryError):
        return Unavailable("the server is short of files, processes or memory: try again")
    return None
