"""Inventory of built environments: what there is, what it costs, and what may go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from orchestrator.environments.catalog import Catalog
from orchestrator.environments.locks import EnvironmentLocks
from orchestrator.records import Environment, EnvironmentState
from orchestrator.sandboxes.backend import Image, SandboxBackend
from orchestrator.sandboxes.instance import instance_id
from orchestrator.sandboxes.labels import INSTANCE_LABEL, POOLED, SESSION_LABEL, VERSION_LABEL
from orchestrator.settings import Settings
from orchestrator.store.base import Store
from orchestrator.telemetry import IMAGE_BYTES, IMAGES

# A server's pool may be starting a sandbox just then; it finds no image for the next.
_TRIES = 3


@dataclass(frozen=True, slots=True)
class ImageReport:
    """One image, with what the store knows of its environment; without a record, only what its labels say."""

    environment_id: str
    ref: str
    size_bytes: int
    created_at: datetime
    last_used_at: datetime
    uses: int
    in_use: bool  # a session that is not closed stands on it
    version: str
    packages: Mapping[str, str]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pruned:
    """One image that was chosen. `kept` says why it is still there; None: it is gone."""

    environment_id: str
    ref: str
    size_bytes: int
    reason: str  # "all", "age", "least used", "budget"
    kept: str | None


class Inventory:
    """The engine is the truth; the store adds names and use. May run beside a server, in another process."""

    def __init__(self, settings: Settings, store: Store, backend: SandboxBackend) -> None:
        self._backend = backend
        self._images = backend.images
        self._instance = instance_id(settings.data_dir)
        self._catalog = Catalog(store)
        self._locks = EnvironmentLocks(settings.data_dir)

    async def prune(
        self,
        *,
        older_than_s: float | None = None,
        budget_bytes: int | None = None,
        least_used: int | None = None,
        all: bool = False,
        dry_run: bool = False,
    ) -> list[Pruned]:
        """Remove images that any of the criteria picks; never one that a session or a build holds. Warm sandboxes, which
        are no session's yet, end with theirs.

        Args:    older_than_s: not used for longer. least_used: that many of those with the fewest uses. budget_bytes:
                 then, the ones used longest ago until all that is left fits. all: every one. dry_run: only tell.
        Returns: what was picked, used longest ago first; none if no criterion is given.
        """
        reports = await self._reports()
        picked = _picked(
            [report for report, _ in reports],
            older_than_s=older_than_s,
            budget_bytes=budget_bytes,
            least_used=least_used,
            all=all,
        )
        pruned = []
        for report, image in reversed(reports):
            if report.environment_id in picked:
                reason = picked[report.environment_id]
                kept = "dry run" if dry_run else await self._remove(image, reason)
                pruned.append(Pruned(report.environment_id, report.ref, report.size_bytes, reason, kept))
        if any(each.kept is None for each in pruned):
            measure(await self._images.list())
        return pruned

    async def list(self) -> list[ImageReport]:
        """Every image, the one used last first."""
        return [report for report, _ in await self._reports()]

    async def _reports(self) -> Sequence[tuple[ImageReport, Image]]:
        images = await self._images.list()
        measure(images)
        in_use = await self._catalog.in_use()
        reports = []
        for image in images:
            environment = await self._catalog.find(image.environment_id)
            reports.append((_report(image, environment, in_use=image.environment_id in in_use), image))
        return sorted(reports, key=lambda pair: pair[0].last_used_at, reverse=True)

    async def _remove(self, image: Image, reason: str) -> str | None:
        """None: it is gone. Else why it is not."""
        async with self._locks.free(image.environment_id) as free:
            if not free:
                return "a build holds it"
            kept = await self._removed(image)
            if kept is not None:
                return kept
            environment = await self._catalog.find(image.environment_id)
            if environment is not None and environment.state is EnvironmentState.READY:
                await self._catalog.pruned(environment.id, reason)
        return None

    async def _removed(self, image: Image) -> str | None:
        """As `_remove`. Before each step the store is asked anew: a server may have opened a session meanwhile."""
        for _ in range(_TRIES):
            pooled = await self._backend.owned({INSTANCE_LABEL: self._instance, SESSION_LABEL: POOLED})
            for sandbox in pooled:
                if sandbox.environment_id == image.environment_id:
                    # One that a session has claimed keeps its label. That session stands on this environment.
                    if await self._in_use(image):
                        return "a session holds it"
                    await self._backend.stop(sandbox)
            # Whose sandbox was stopped in the moment of its claim gets another, as long as the image is there.
            if await self._in_use(image):
                return "a session holds it"
            if await self._images.remove(image):
                return None
        return "a sandbox uses it"

    async def _in_use(self, image: Image) -> bool:
        return image.environment_id in await self._catalog.in_use()


def measure(images: Sequence[Image]) -> None:
    """Let the metrics tell what is there."""
    IMAGES.set(len(images))
    IMAGE_BYTES.set(sum(image.size_bytes for image in images))


def _report(image: Image, environment: Environment | None, *, in_use: bool) -> ImageReport:
    return ImageReport(
        environment_id=image.environment_id,
        ref=image.ref,
        size_bytes=image.size_bytes,
        created_at=image.created_at,
        last_used_at=image.created_at if environment is None else max(environment.last_used_at, image.created_at),
        uses=0 if environment is None else environment.uses,
        in_use=in_use,
        version=image.labels.get(VERSION_LABEL, "") if environment is None else environment.version,
        packages={} if environment is None else environment.packages,
        labels=image.labels,
    )


def _picked(
    reports: Sequence[ImageReport],
    *,
    older_than_s: float | None,
    budget_bytes: int | None,
    least_used: int | None,
    all: bool,
) -> dict[str, str]:
    """Environment id -> the first criterion that picks it. Pure, save for the clock."""
    idle = sorted((report for report in reports if not report.in_use), key=lambda report: report.last_used_at)
    picked: dict[str, str] = {}
    if all:
        picked |= {report.environment_id: "all" for report in idle}
    if older_than_s is not None:
        before = datetime.now(UTC) - timedelta(seconds=older_than_s)
        for report in idle:
            if report.last_used_at < before:
                picked.setdefault(report.environment_id, "age")
    if least_used is not None:
        for report in sorted(idle, key=lambda report: report.uses)[: max(0, least_used)]:
            picked.setdefault(report.environment_id, "least used")
    if budget_bytes is not None:
        left = sum(report.size_bytes for report in reports if report.environment_id not in picked)
        for report in idle:
            if left > budget_bytes and report.environment_id not in picked:
                picked[report.environment_id] = "budget"
                left -= report.size_bytes
    return picked
