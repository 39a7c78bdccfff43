"""A backend in memory, in place of the one that `select_backend` would choose."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.errors import EngineUnavailable
from orchestrator.sandboxes.backend import Image, Sandbox

NOW = datetime.now(UTC)


class Images:
    def __init__(self) -> None:
        self.held = [
            Image(
                environment_id=f"py3.12-{name}",
                ref=f"kodou/env:py3.12-{name}",
                size_bytes=megabytes * 10**6,
                created_at=NOW - timedelta(days=days),
                labels={"io.kodou.version": "3.12.4"},
            )
            for name, megabytes, days in (("old", 300, 90), ("new", 200, 1))
        ]

    async def list(self) -> list[Image]:
        return list(self.held)

    async def remove(self, image: Image) -> bool:
        self.held.remove(image)
        return True


class Backend:
    """`stopped`: the sandboxes that were stopped. `down`: the engine does not answer."""

    name = "docker"

    def __init__(self) -> None:
        self.images = Images()
        self.stopped: list[Sandbox] = []
        self.down = False
        self.selected: list[str] = []  # what settings asked for

    async def select(self, settings: Any) -> "Backend":
        self.selected.append(settings.backend)
        return self

    async def stop(self, sandbox: Sandbox, *, grace_s: float = 0.0) -> None:
        if self.down:
            msg = "the engine does not answer"
            raise EngineUnavailable(msg)
        self.stopped.append(sandbox)

    async def owned(self, labels: Mapping[str, str]) -> list[Sandbox]:
        return []

    async def aclose(self) -> None:
        pass
