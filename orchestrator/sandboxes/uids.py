"""User ids of sandboxes: one each, so that two of them never share limits, keyrings or files. A shared one has a block."""

from orchestrator.errors import EngineUnavailable


class Uids:
    """Hands out ids from `base` to `base + count - 1`. Not thread safe: used on the event loop only."""

    def __init__(self, base: int, count: int) -> None:
        self._base = base
        self._count = count
        self._held: dict[str, range] = {}  # by sandbox id
        self._taken: set[int] = set()

    def take(self, sandbox_id: str, block: int = 1) -> int:
        """An id that no other sandbox holds, the first of so many: a power of two, of which it is a multiple. It follows from
        the sandbox's own (32 hex digits) where that is free, so that servers which share an engine but not this table seldom
        meet. Raises `EngineUnavailable`: all are held."""
        first = -(-self._base // block)  # in blocks, as what follows
        count = (self._base + self._count) // block - first
        for attempt in range(count):
            uid = (first + (int(sandbox_id, 16) + attempt) % count) * block
            if self._taken.isdisjoint(range(uid, uid + block)):
                self.hold(sandbox_id, uid, block)
                return uid
        msg = f"all {self._count} user ids for sandboxes are taken; raise KODOU_SANDBOX_UID_COUNT"
        raise EngineUnavailable(msg)

    def hold(self, sandbox_id: str, uid: int, block: int = 1) -> None:
        """Remember what a sandbox from before a restart holds."""
        self._held[sandbox_id] = range(uid, uid + block)
        self._taken.update(self._held[sandbox_id])

    def release(self, sandbox_id: str) -> None:
        """The sandbox is gone; not holding one is fine."""
        self._taken.difference_update(self._held.pop(sandbox_id, ()))
