"""User ids of sandboxes: one each, so that two of them never share limits, keyrings or files."""

from orchestrator.errors import EngineUnavailable


class Uids:
    """Hands out ids from `base` to `base + count - 1`. Not thread safe: used on the event loop only."""

    def __init__(self, base: int, count: int) -> None:
        self._base = base
        self._count = count
        self._held: dict[str, int] = {}  # sandbox id -> uid
        self._taken: set[int] = set()

    def take(self, sandbox_id: str) -> int:
        """An id that no other sandbox holds. It follows from the sandbox's own (32 hex digits) where that is free, so
        that servers which share an engine but not this table seldom meet. Raises `EngineUnavailable`: all are held."""
        if len(self._taken) >= self._count:
            msg = f"all {self._count} user ids for sandboxes are taken; raise KODOU_SANDBOX_UID_COUNT"
            raise EngineUnavailable(msg)
        offset = int(sandbox_id, 16) % self._count
        while self._base + offset in self._taken:
            offset = (offset + 1) % self._count
        uid = self._base + offset
        self.hold(sandbox_id, uid)
        return uid

    def hold(self, sandbox_id: str, uid: int) -> None:
        """Remember what a sandbox from before a restart holds."""
        self._held[sandbox_id] = uid
        self._taken.add(uid)

    def release(self, sandbox_id: str) -> None:
        """The sandbox is gone; not holding one is fine."""
        uid = self._held.pop(sandbox_id, None)
        if uid is not None:
            self._taken.discard(uid)
