"""What uv said when it could not resolve, as an error that the caller may read.

uv ends with 1 when there is no solution and with 2 for anything else; the words below are those of uv 0.9 to 0.13, and
`tests/integration/test_lock_and_fetch.py` holds the ones that decide something. Texts made in a sandbox are hostile:
they can pick the kind of their own failure, nothing more.
"""

import re

from orchestrator.errors import BuildFailed, Defect, DependencyUnresolvable, IndexUnavailable, KodouError
from orchestrator.settings import Settings

MAX_EXPLANATION_CHARS = 4096

_NO_SOLUTION = "No solution found"
_INDEX = re.compile(
    r"Request failed after|Failed to fetch|error sending request|dns error|Unsupported `Content-Type`"
    r"|lack of valid authentication credentials|Network connectivity is disabled"
)
_BUILD = re.compile(
    r"Failed to build|build backend|Build backend|Failed to download and build|Failed to resolve requirements from"
)
_HOST = re.compile(r"No space left on device|Permission denied|Read-only file system|Too many open files")
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[^\t\n\x20-\x7e\u00a0-\ud7ff\ue000-\uffff]")
_CREDENTIALS = re.compile(r"//[^/\s@]+@")
_PATH = re.compile(r"(?<![\w:/.<])/(?:[\w.+@~-]+/)+[\w.+@~-]*")


def needs_source_build(code: int, log: str) -> bool:
    """No wheels were the (or a) reason that nothing fits: with source builds there may be a solution."""
    lower = log.lower()
    return code == 1 and "wheel" in lower and ("usable wheels" in lower or "building from source" in lower)


def resolve_failure(code: int, log: str, *, settings: Settings, from_source: bool) -> KodouError:
    """The error for a failed `uv pip compile`.

    Args:    code, log: uv's exit code and standard error. from_source: it ran in a builder sandbox, with builds allowed.
    Returns: `DependencyUnresolvable`, `IndexUnavailable`, `BuildFailed` (from_source only) or `Defect`, to be raised.
    """
    if from_source and _BUILD.search(log) and (code != 1 or _NO_SOLUTION not in log):
        return BuildFailed("a package could not be built from its source", log_tail=tail(log, settings))
    if _INDEX.search(log):
        return IndexUnavailable("the package index does not answer as it should; try again later")
    if from_source and _NO_SOLUTION not in log:
        return BuildFailed("the dependencies could not be resolved in the sandbox", log_tail=tail(log, settings))
    if _HOST.search(log):
        return Defect(f"uv ended with {code}: {log[-MAX_EXPLANATION_CHARS:]}")
    return DependencyUnresolvable(explanation(log))


def explanation(log: str) -> str:
    """uv's own words, fit for the caller: no path of this host, no credential, at most 4 KiB."""
    lines = [line for line in log.splitlines() if not line.startswith(("warning:", "Resolved in"))]
    text = _cleaned("\n".join(lines)).removeprefix("error:").strip()
    return text if len(text) <= MAX_EXPLANATION_CHARS else text[: MAX_EXPLANATION_CHARS - 1] + "…"


def tail(log: str, settings: Settings) -> str:
    """The end of a log, bounded and cleaned as an explanation is."""
    return _cleaned(log[-settings.build_log_tail_bytes :])


def _cleaned(text: str) -> str:
    return _PATH.sub("<path>", _CREDENTIALS.sub("//", _CONTROL.sub("", text)))
