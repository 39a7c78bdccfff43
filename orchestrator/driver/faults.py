"""Errors on their way from the driver to who asked: by code, with what is fit for a client and nothing else."""

from orchestrator.driver.messages import Failed
from orchestrator.errors import (
    BuildFailed,
    Defect,
    DependencyUnresolvable,
    EngineUnavailable,
    IndexUnavailable,
    InvalidRequest,
    KodouError,
    NotFound,
    SandboxLost,
    ShuttingDown,
    StoreBusy,
    Unavailable,
)

_UNAVAILABLE = {
    error.code: error for error in (EngineUnavailable, IndexUnavailable, SandboxLost, StoreBusy, ShuttingDown)
}
_PLAIN = {error.code: error for error in (NotFound, DependencyUnresolvable)}
_KNOWN = frozenset({*_UNAVAILABLE, *_PLAIN, InvalidRequest.code, BuildFailed.code})


def told(error: KodouError) -> Failed:
    """How an error is written. A defect keeps its details to itself."""
    if error.code not in _KNOWN:
        return Failed(Defect.code, "the engine's driver failed; its log says more")
    return Failed(
        error.code,
        error.detail,
        field=error.field if isinstance(error, InvalidRequest) else None,
        log_tail=error.log_tail if isinstance(error, BuildFailed) else "",
        after_s=error.after_s if isinstance(error, Unavailable) else 0.0,
    )


def raised(failed: Failed) -> KodouError:
    """The error that was written."""
    if failed.code in _UNAVAILABLE:
        return _UNAVAILABLE[failed.code](failed.detail, after_s=failed.after_s)
    if failed.code in _PLAIN:
        return _PLAIN[failed.code](failed.detail)
    if failed.code == BuildFailed.code:
        return BuildFailed(failed.detail, log_tail=failed.log_tail)
    if failed.code == InvalidRequest.code:
        return InvalidRequest(failed.detail, field=failed.field)
    return Defect(failed.detail)
