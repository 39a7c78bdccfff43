"""DockerImages: runner images and environments as images of the engine, which is the truth about them."""

import asyncio
import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from docker import APIClient
from packaging.version import Version

from orchestrator.errors import EngineUnavailable, KodouError, NotFound
from orchestrator.sandboxes.backend import BuildEvent, BuildOrder, Image, Interpreter
from orchestrator.sandboxes.builder_commands import Builder, BuilderCommands
from orchestrator.sandboxes.directories.trees import Usage
from orchestrator.sandboxes.docker.builder import Limits, building, layer_usage
from orchestrator.sandboxes.docker.engine import Engine, EngineConflict
from orchestrator.sandboxes.docker.gvisor import is_gvisor
from orchestrator.sandboxes.docker.options import (
    BUILDER,
    ENVIRONMENT_IMAGE,
    KIND,
    LAYER_BYTES,
    REPOSITORY,
    builder_body,
)
from orchestrator.sandboxes.docker.runner_image import RunnerImage, ensure, remove_superseded
from orchestrator.sandboxes.docker.verbs import commit_container, inspect_image, remove_container
from orchestrator.sandboxes.foundation import Foundation, sharing
from orchestrator.sandboxes.interpreters import described
from orchestrator.sandboxes.labels import ENVIRONMENT_LABEL, INSTANCE_LABEL, INTERPRETER_LABEL
from orchestrator.sandboxes.layout import BUILD, INDEX
from orchestrator.sandboxes.seccomp import profile_json
from orchestrator.sandboxes.workspace import Workspace, is_held, left_behind
from orchestrator.settings import Settings
from orchestrator.telemetry import log

CONTAINER_PREFIX = "kodou-build-"  # of builders; the workspace's id follows


class DockerImages:
    """The `ImageStore` of the docker backend. All servers of an engine use each other's images and list, so prune, only
    their own; `instance` is this one. `trial` raises `KodouError` if no runner of a runner image can work here."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        instance: str,
        trial: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._instance = instance
        self._trial = trial
        self._commands = BuilderCommands(settings, self._building)
        self._offered: dict[str, Interpreter] = {}  # by base, as settings name it
        self._preparing = asyncio.Lock()
        self._removals: set[asyncio.Task[None]] = set()
        self._left = False  # the engine went away in a build: its builder may be there still

    async def prepare(self) -> None:
        async with self._preparing:
            await self._remove_left_behind()
            await asyncio.gather(*(self._offer(base) for base in self._settings.base_images))

    async def interpreters(self) -> list[Interpreter]:
        # In the order of settings first, so that of two bases with one version the first counts.
        in_order = (self._offered[base] for base in self._settings.base_images if base in self._offered)
        by_version: dict[str, Interpreter] = {}
        for interpreter in in_order:
            by_version.setdefault(interpreter.version, interpreter)
        return sorted(by_version.values(), key=lambda each: Version(each.version), reverse=True)

    async def lock_in_sandbox(self, interpreter: Interpreter, requirements: Sequence[str], *, timeout_s: float) -> str:
        await self._ensure(interpreter)
        return await self._commands.lock(interpreter.base, requirements, timeout_s=timeout_s)

    async def build(self, order: BuildOrder) -> AsyncIterator[BuildEvent]:
        _, images = await asyncio.gather(self._ensure(order.interpreter), self.list())
        async with aclosing(self._commands.install(order, partial(self._commit, order), images)) as events:
            async for event in events:
                yield event

    async def find(self, environment_id: str) -> Image | None:
        ref = f"{REPOSITORY}:{environment_id}"
        try:
            found = await self._engine.run(lambda client: inspect_image(client, ref))
        except NotFound:
            return None
        labels = found["Config"].get("Labels") or {}
        if labels.get(KIND) != ENVIRONMENT_IMAGE or labels.get(ENVIRONMENT_LABEL) != environment_id:
            return None  # somebody else's image under a name of ours
        return _image(environment_id, labels, found["Size"], _moment(found["Created"]))

    async def list(self) -> builtins.list[Image]:
        # Only what this server built: it cannot know what another one on the same engine still counts on.
        wanted = {"label": [f"{KIND}={ENVIRONMENT_IMAGE}", f"{INSTANCE_LABEL}={self._instance}"]}
        images = []
        for each in await self._engine.run(lambda client: client.images(filters=wanted)):
            labels = each.get("Labels") or {}
            environment_id = labels.get(ENVIRONMENT_LABEL)
            if environment_id is not None and f"{REPOSITORY}:{environment_id}" in (each.get("RepoTags") or ()):
                created_at = datetime.fromtimestamp(each["Created"], UTC)
                images.append(_image(environment_id, labels, each["Size"], created_at))
        return images

    async def remove(self, image: Image) -> bool:
        await self.settled()  # a builder that is no more than a name may count as its user
        try:
            await self._engine.run(lambda client: client.remove_image(image.ref))
        except NotFound:
            return True
        except EngineConflict:
            return False
        return True

    async def _offer(self, base: str) -> None:
        def make(client: APIClient) -> RunnerImage:
            made = ensure(client, base, self._settings.base_packages, instance=self._instance)
            remove_superseded(client, base, made, instance=self._instance)
            return made

        try:
            made = await self._engine.run_through(make)
            if base not in self._offered or self._offered[base].digest != made.digest:
                printed = await self._commands.probe(made.ref)
                if self._trial is not None:
                    await self._trial(made.ref)
                self._offered[base] = described(
                    printed, base=made.ref, digest=made.digest, base_digest=made.base_digest, runner=made.runner
                )
        except KodouError as exc:
            self._offered.pop(base, None)
            log.error("base_image_unusable", base=base, error=exc.detail, cause=str(exc.__cause__)[:2000])

    async def _ensure(self, interpreter: Interpreter) -> None:
        """Make the runner image again if somebody removed it since `prepare`."""
        try:
            await self._engine.run(lambda client: inspect_image(client, interpreter.base))
        except NotFound:
            await self.prepare()

    @asynccontextmanager
    async def _building(
        self,
        workspace: Workspace,
        base: str,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        writable: bool = False,
        foundation: Foundation | None = None,
    ) -> AsyncIterator[Builder]:
        settings = self._settings
        body = builder_body(
            base if foundation is None else foundation.image.ref,
            arguments,
            instance=self._instance,
            memory_mb=settings.build_memory_mb,
            cpus=settings.max_cpus,
            seccomp=profile_json(gvisor=is_gvisor(settings.docker_runtime)),
            runtime=settings.docker_runtime,
            writable_mb=settings.build_disk_mb if writable else None,
            mounts={BUILD: workspace.build, INDEX: workspace.index},
        )
        limits = Limits(timeout_s, settings.build_disk_mb, settings.build_files, _below(foundation))
        name = f"{CONTAINER_PREFIX}{workspace.id}"
        if self._left:
            await self._remove_left_behind()
            self._left = False
        behind = self._behind if writable else None  # an image was made, which serves meanwhile
        try:
            async with building(self._engine, name, body, limits, writable=writable, behind=behind) as builder:
                yield builder
        except EngineUnavailable:
            self._left = True
            raise

    async def _commit(self, order: BuildOrder, workspace: Workspace, foundation: Foundation | None) -> None:
        """The builder's root becomes an image; it is named with the last step, so there is never half of one."""
        container = f"{CONTAINER_PREFIX}{workspace.id}"
        most = self._settings.build_files
        usage = await self._engine.run(lambda client: layer_usage(client, container, max_files=most))
        below = _below(foundation)
        labels = {
            **order.labels,
            KIND: ENVIRONMENT_IMAGE,
            INSTANCE_LABEL: self._instance,
            ENVIRONMENT_LABEL: order.environment_id,
            INTERPRETER_LABEL: order.interpreter.digest,
            LAYER_BYTES: str(usage.bytes + below.bytes),
            **sharing(order, foundation, count=usage.files + below.files),
        }
        await self._engine.run_through(
            lambda client: commit_container(client, container, REPOSITORY, order.environment_id, labels)
        )

    def _behind(self, removal: Coroutine[Any, Any, None]) -> None:
        """Let the removal of a builder go on while its image is used already."""
        task = asyncio.create_task(removal)
        self._removals.add(task)
        task.add_done_callback(self._removed)

    def _removed(self, task: asyncio.Task[None]) -> None:
        self._removals.discard(task)
        if task.cancelled() or task.exception() is not None:
            self._left = True

    async def settled(self) -> None:
        """Wait for the removals that are under way."""
        await asyncio.gather(*self._removals, return_exceptions=True)

    async def _remove_left_behind(self) -> None:
        """Builder sandboxes and workspaces of this server that no process works with any more."""
        builds_dir = self._settings.builds_dir
        wanted = {"label": [f"{KIND}={BUILDER}", f"{INSTANCE_LABEL}={self._instance}"]}
        for each in await self._engine.run(lambda client: client.containers(all=True, filters=wanted)):
            name = (each["Names"] or [""])[0].removeprefix("/")
            if not await asyncio.to_thread(is_held, builds_dir, name.removeprefix(CONTAINER_PREFIX)):
                log.info("builder_left_behind", container=name)
                await self._engine.run_through(partial(remove_container, name=each["Id"]))
        await asyncio.to_thread(left_behind, builds_dir)


def _image(environment_id: str, labels: Mapping[str, str], size: int, created_at: datetime) -> Image:
    own = labels.get(LAYER_BYTES, "")
    return Image(
        environment_id=environment_id,
        ref=f"{REPOSITORY}:{environment_id}",
        size_bytes=int(own) if own.isdecimal() else size,
        created_at=created_at,
        labels=labels,
    )


def _below(foundation: Foundation | None) -> Usage:
    return Usage(0, 0) if foundation is None else Usage(foundation.image.size_bytes, foundation.count)


def _moment(text: str) -> datetime:
    """RFC 3339 with nanoseconds, as the engine writes it: cut to whole seconds."""
    return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
