"""At start: sessions that an earlier server left are taken up again if their sandboxes answer; the rest is removed."""

import asyncio
import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.errors import KodouError
from orchestrator.records import Session, SessionState
from orchestrator.sandboxes.backend import Sandbox
from orchestrator.sessions.freezing import THAW_S
from orchestrator.sessions.lifecycle import Lifecycle
from orchestrator.sessions.live import ENDED, UNCLOSED, LiveSession, Registry
from orchestrator.sessions.sandboxes import Sandboxes, handle
from orchestrator.sessions.shared import is_slot
from orchestrator.store.base import Store
from orchestrator.telemetry import log

# For a runner to connect anew. A live one tries several times a second, on a machine that lets it; and what is not taken up
# is lost with all its state.
ANSWER_S = 20.0
AT_ONCE = 32


class Claim:
    """One server for a data directory: a second would take the first one's sandboxes for what a crash left."""

    def __init__(self, path: Path) -> None:
        """Raises `KodouError` if another process holds it."""
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            msg = "a kodou server runs on this data directory already: stop it, or give this one its own KODOU_DATA_DIR"
            raise KodouError(msg) from None

    def release(self) -> None:
        """May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


async def recover(store: Store, sandboxes: Sandboxes, registry: Registry, lifecycle: Lifecycle) -> None:
    """Returns once every session of this instance is live or closed. Sandboxes that no session accounts for are
    stopped. Other instances' are left alone. Raises `EngineUnavailable`, `StoreBusy`."""
    records = await store.list(Session, state=UNCLOSED)
    owned = {sandbox.id: sandbox for sandbox in await sandboxes.owned()}
    at_once = asyncio.Semaphore(AT_ONCE)

    async def take_up(record: Session, sandbox: Sandbox | None) -> None:
        async with at_once:
            if not await _adopted(record, sandbox, sandboxes, registry, lifecycle):
                await lifecycle.close_left(record)

    async def stop(sandbox: Sandbox) -> None:
        async with at_once:
            await sandboxes.stop(sandbox)

    mine = [record for record in records if record.sandbox.get("instance") == sandboxes.instance]
    work = [take_up(record, owned.pop(record.sandbox.get("id", ""), None)) for record in mine]
    results = await asyncio.gather(*work, *map(stop, owned.values()), return_exceptions=True)
    for failure in (result for result in results if isinstance(result, BaseException)):
        if not isinstance(failure, KodouError):
            raise failure
        log.warning("a leftover could not be dealt with", error=repr(failure))  # the reaper comes again
    if mine or owned:
        log.info("sessions recovered", found=len(mine), live=len(registry), orphans=len(owned))


async def _adopted(
    record: Session, sandbox: Sandbox | None, sandboxes: Sandboxes, registry: Registry, lifecycle: Lifecycle
) -> bool:
    if record.state in (SessionState.STARTING, *ENDED) or record.expires_at <= datetime.now(UTC):
        return False
    if sandbox is None:
        slot = handle(record.sandbox)
        if slot is None or not is_slot(slot):
            return False
        live = LiveSession(record, SessionState.RESTARTING)  # shared sandboxes end with their server
        live.sandbox = slot  # so that the next server knows it for one that had a slot, too
        registry.add(live)
        return True
    try:
        async with asyncio.timeout(THAW_S):
            await sandboxes.thaw(sandbox)  # a server that crashed may have left it frozen
        channel = await sandboxes.connect(sandbox, record, timeout_s=ANSWER_S)
    except (KodouError, TimeoutError) as error:
        log.info("a sandbox is not taken up", session=record.id, reason=str(error))
        return False
    # As one whose sandbox starts anew. Counted as used now: it was the server that was away.
    live = LiveSession(record, SessionState.RESTARTING)
    registry.add(live)
    await lifecycle.take(live, sandbox, channel)
    return True
