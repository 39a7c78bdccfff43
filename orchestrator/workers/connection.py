"""A worker's connections: those of one process, with bounds that hold for all workers together."""

from collections.abc import Callable

from orchestrator.api import connection
from orchestrator.settings import Settings
from orchestrator.workers.counts import Counts


class Connection(connection.Connection):
    """Tells when its client leaves, so that the owner knows as soon as one process would."""

    _watcher: Callable[[], None] | None = None
    _lost = False

    def watched_by(self, watcher: Callable[[], None] | None) -> None:
        """Who is told; at once if it has happened."""
        self._watcher = watcher
        if self._lost and watcher is not None:
            watcher()

    def _begin(self) -> None:
        super()._begin()
        self.scope["state"]["connection"] = self  # the app looks for it, and runs after this

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost = True
        if self._watcher is not None:
            self._watcher()


def connections(settings: Settings, counts: Counts, worker: int) -> type[Connection]:
    """The class to give to uvicorn."""

    class Shared(connection.connections(settings, base=Connection)):  # type: ignore[misc]
        def crowded(self) -> bool:
            return counts.connections(worker, len(self.connections)) > settings.max_connections

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            counts.connections(worker, len(self.connections))

    return Shared
