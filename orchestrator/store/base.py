"""Where records are kept. Two implementations, `memory` and `sql`, pass one suite (`tests/contract`)."""

from typing import Protocol, TypeVar

from orchestrator.records import Alias, Environment, Key, Record, Session

R = TypeVar("R", Key, Environment, Alias, Session)


class Store(Protocol):
    """Any number of tasks may call at once; each call is one transaction. Raises `StoreBusy` on a locked or full store."""

    async def add(self, record: Record) -> None:
        """Keep a new record. Raises `RecordExists` if its kind has that id already."""

    async def get(self, kind: type[R], id: str) -> R | None:
        """The record as last written, or None."""

    async def list(self, kind: type[R], **where: object) -> list[R]:
        """Records whose fields equal `where`, oldest first. A tuple as a value means any of its members."""

    async def replace(self, record: Record, *, expected: int) -> bool:
        """Write `record` with revision `expected + 1` if the stored one is at `expected`. False: another was first."""

    async def delete(self, kind: type[R], id: str) -> None:
        """Forget it; already gone is success."""

    async def close(self) -> None:
        """Release connections. May be called twice."""


class RecordExists(Exception):
    """`add` found the id taken; the caller reads the other's record."""
