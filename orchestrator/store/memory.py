"""A store in this process's memory: for tests and trials, held to the same suite as `sql`."""

import copy
from dataclasses import fields, replace
from typing import cast

from orchestrator.records import Alias, Environment, Key, Record, Session
from orchestrator.store.base import R, RecordExists


class MemoryStore:
    """Copies on the way in and out, so that nobody holds what is stored."""

    def __init__(self) -> None:
        self._records: dict[type, dict[str, Record]] = {Key: {}, Environment: {}, Alias: {}, Session: {}}

    async def add(self, record: Record) -> None:
        kept = self._records[type(record)]
        if record.id in kept:
            raise RecordExists(record.id)
        kept[record.id] = copy.deepcopy(record)

    async def get(self, kind: type[R], id: str) -> R | None:
        return cast(R | None, copy.deepcopy(self._records[kind].get(id)))

    async def list(self, kind: type[R], **where: object) -> list[R]:
        unknown = where.keys() - {field.name for field in fields(kind)}
        if unknown:
            msg = f"{kind.__name__} has no field {', '.join(sorted(unknown))}"
            raise ValueError(msg)
        found = [record for record in self._records[kind].values() if _matches(record, where)]
        return cast(list[R], copy.deepcopy(sorted(found, key=_age)))

    async def replace(self, record: Record, *, expected: int) -> bool:
        kept = self._records[type(record)]
        stored = kept.get(record.id)
        if stored is None or stored.revision != expected:
            return False
        kept[record.id] = copy.deepcopy(replace(record, revision=expected + 1))
        return True

    async def delete(self, kind: type[R], id: str) -> None:
        self._records[kind].pop(id, None)

    async def close(self) -> None:
        pass


def _matches(record: Record, where: dict[str, object]) -> bool:
    for name, wanted in where.items():
        value = getattr(record, name)
        if not (value in wanted if isinstance(wanted, tuple) else value == wanted):
            return False
    return True


def _age(record: Record) -> tuple[object, str]:
    return (record.resolved_at if isinstance(record, Alias) else record.created_at, record.id)
