"""Environments: from a request to a built image, each built once however many ask."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import TypeGuard

from orchestrator import telemetry
from orchestrator.environments.build import Build, Built
from orchestrator.environments.catalog import Catalog
from orchestrator.environments.images import measure
from orchestrator.environments.lock import Lock, environment_id
from orchestrator.environments.locks import EnvironmentLocks
from orchestrator.environments.python import PythonBuilder
from orchestrator.environments.requirements import canonical, request_digest
from orchestrator.environments.versions import match
from orchestrator.errors import (
    BuildFailed,
    DependencyUnresolvable,
    IndexUnavailable,
    KodouError,
    NotFound,
    RateLimited,
    ShuttingDown,
)
from orchestrator.records import Environment, EnvironmentState
from orchestrator.sandboxes.backend import BuildEvent, BuildOrder, Image, ImageStore, Interpreter
from orchestrator.settings import Settings
from orchestrator.store.base import Store
from orchestrator.turns import Turns
from orchestrator.unforeseen import ours

__all__ = ["Build", "Built", "Environments"]

_BUSY_AFTER_S = 10.0
_WHEELS_KEPT_S = 30 * 86_400.0


class Environments:
    """The one door to environments. Belongs to one event loop; other server processes may share the data directory."""

    def __init__(self, settings: Settings, store: Store, images: ImageStore, *, backend: str) -> None:
        self._settings = settings
        self._images = images
        self._backend = backend
        self._catalog = Catalog(store)
        self._locks = EnvironmentLocks(settings.data_dir)
        self._python = PythonBuilder(settings, images)
        self._turns = Turns(settings.max_builds)
        self._of_owner: Counter[str] = Counter()  # builds that run or wait, by who asked first
        self._running: dict[tuple[str, bool], Build] = {}  # by request digest and whether it is to be resolved anew
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self) -> None:
        """Mark builds that a crash left as failed. What another process is building is left alone."""
        for environment in await self._catalog.on(self._backend, EnvironmentState.PLANNED, EnvironmentState.BUILDING):
            async with self._locks.free(environment.id) as free:
                if free:
                    await self._catalog.failed(environment.id, "the server ended before the build did")
        await self._python.sweep(_WHEELS_KEPT_S)

    async def aclose(self) -> None:
        """End the builds under way; whoever waits gets `ShuttingDown`. May be called twice."""
        self._closing = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._python.aclose()

    async def offered(self, language: str) -> list[Interpreter]:
        """Interpreters on offer, newest first. Raises `NotFound` for a language that is not."""
        if language != self._python.language:
            msg = f"no language {ascii(language)[:40]}; there is: {self._python.language}"
            raise NotFound(msg)
        return await self._images.interpreters()

    async def setup(
        self,
        language: str,
        version: str | None,
        dependencies: Sequence[str],
        *,
        refresh: bool = False,
        owner: str = "",
    ) -> Build:
        """The build of what is asked for: one that is done, one under way, or a new one.

        Args:    dependencies: PEP 508 strings; see `requirements.canonical`. refresh: resolve again, whatever is known.
                 owner: who asks; one owner's builds do not keep another's waiting for more than one turn.
        Raises:  NotFound (language), UnknownVersion, InvalidRequest, RateLimited (too many builds), ShuttingDown.
        """
        if self._closing:
            msg = "the server is stopping"
            raise ShuttingDown(msg)
        offered = await self.offered(language)
        wanted = canonical(
            dependencies,
            max_count=self._settings.max_dependencies,
            max_bytes=self._settings.max_dependency_bytes,
        )
        interpreter = match(version, offered, self._settings.default_version)
        request = request_digest(wanted, interpreter, self._settings)
        known = None if refresh else await self._known(request, max_age_s=self._settings.alias_ttl_s)
        if isinstance(known, Built):
            return Build.done(known)
        # From here to the task's start nothing waits, so of two equal requests the second finds the first one's build.
        running = self._running.get((request, refresh))
        return running or self._begin(request, interpreter, wanted, stored=known, refresh=refresh, owner=owner)

    async def get(self, language: str, environment_id: str) -> Environment:
        """One environment, in whatever state. Raises `NotFound`."""
        await self.offered(language)
        environment = await self._catalog.find(environment_id)
        if environment is None or environment.language != language:
            msg = f"no {language} environment {ascii(environment_id)[:60]}"
            raise NotFound(msg)
        return environment

    async def list(self, language: str) -> list[Environment]:
        """Those that are built, oldest first. Raises `NotFound` (language)."""
        await self.offered(language)
        return [
            each for each in await self._catalog.on(self._backend, EnvironmentState.READY) if each.language == language
        ]

    async def touch(self, environment_id: str) -> None:
        """Count one use: a session was opened on it."""
        await self._catalog.touch(environment_id)

    async def _known(self, request: str, *, max_age_s: float | None) -> Built | Environment | None:
        """What the request was resolved to: with its image, or without if that is gone. None: resolve."""
        alias = await self._catalog.alias(request)
        if alias is None:
            return None
        if max_age_s is not None and datetime.now(UTC) - alias.resolved_at >= timedelta(seconds=max_age_s):
            return None
        environment = await self._catalog.find(alias.environment_id)
        if environment is None:
            return None
        image = await self._images.find(environment.id)
        return Built(environment, image, reused=True) if _stands(image, environment) else environment

    def _begin(
        self,
        request: str,
        interpreter: Interpreter,
        wanted: Sequence[str],
        *,
        stored: Environment | None,
        refresh: bool,
        owner: str,
    ) -> Build:
        if self._closing:
            msg = "the server is stopping"
            raise ShuttingDown(msg)
        if len(self._running) >= self._settings.max_builds + self._settings.max_builds_waiting:
            msg = f"{len(self._running)} builds run or wait already"
            raise RateLimited(msg, after_s=_BUSY_AFTER_S)
        if self._of_owner[owner] >= self._settings.max_builds_per_owner:
            msg = f"{self._of_owner[owner]} builds of yours run or wait already, the most there may be"
            raise RateLimited(msg, after_s=_BUSY_AFTER_S)
        build = Build()
        work = self._make(build, request, interpreter, wanted, stored=stored, refresh=refresh)
        task = asyncio.create_task(self._run(build, work, owner), name=f"build {request[:12]}")
        self._running[request, refresh] = build
        self._of_owner[owner] += 1
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, (request, refresh), build, work, owner))
        return build

    def _ended(
        self,
        task: asyncio.Task[None],
        key: tuple[str, bool],
        build: Build,
        work: Coroutine[None, None, Built],
        owner: str,
    ) -> None:
        self._tasks.discard(task)
        self._of_owner[owner] -= 1
        if not self._of_owner[owner]:
            del self._of_owner[owner]
        self._running.pop(key, None)
        work.close()  # a task that was cancelled before its turn has not begun it
        if not build.ended():
            build.fail(ShuttingDown("the server stopped during the build"))

    async def _run(self, build: Build, work: Coroutine[None, None, Built], owner: str) -> None:
        """Carry the work's end over to the build: the edge at which foreign errors become ours."""
        started = perf_counter()
        try:
            async with self._turns.turn(owner):
                built = await work
        except KodouError as exc:
            telemetry.BUILDS.labels("failed").inc()
            telemetry.log.info("build failed", code=exc.code, detail=exc.detail[:200])
            build.fail(exc)
        except Exception as exc:
            telemetry.BUILDS.labels("failed").inc()
            build.fail(ours(exc, "a build"))
        else:
            if not built.reused:
                telemetry.BUILDS.labels("ready").inc()
                telemetry.BUILD_SECONDS.observe(perf_counter() - started)
            build.finish(built)

    async def _make(
        self,
        build: Build,
        request: str,
        interpreter: Interpreter,
        wanted: Sequence[str],
        *,
        stored: Environment | None,
        refresh: bool,
    ) -> Built:
        try:
            async with asyncio.timeout(self._settings.build_timeout_s):
                lock = None if stored is None else await self._stored_lock(stored, interpreter)
                resolve = lock is None
                if lock is None:
                    build.publish(BuildEvent("resolve"))
                    try:
                        lock = await self._python.lock(interpreter, wanted, refresh=refresh)
                    except IndexUnavailable as exc:
                        stale = None if refresh else await self._known(request, max_age_s=None)
                        if not isinstance(stale, Built):
                            raise
                        telemetry.log.warning(
                            "stale environment served", environment=stale.environment.id, why=exc.detail
                        )
                        return stale
                built = await self._ensured(build, lock, interpreter)
                if resolve:
                    await self._catalog.point(request, built.environment.id)
                return built
        except TimeoutError as exc:
            msg = f"the build took longer than {self._settings.build_timeout_s:g} s"
            raise BuildFailed(msg, log_tail="") from exc

    async def _stored_lock(self, stored: Environment, interpreter: Interpreter) -> Lock | None:
        """The lock of an environment whose image is gone. None: the settings refuse it by now."""
        try:
            return await self._python.parse(stored.lock, interpreter)
        except DependencyUnresolvable:
            return None

    async def _ensured(self, build: Build, lock: Lock, interpreter: Interpreter) -> Built:
        """The environment of a lock, built if it is not; one process at a time does so."""
        id = environment_id(lock, interpreter)
        await self._catalog.plan(id, lock, interpreter, backend=self._backend)
        async with self._locks.held(id):
            image = await self._images.find(id)
            environment = await self._catalog.find(id)
            if environment is not None and _stands(image, environment):
                return Built(environment, image, reused=True)
            if environment is not None and environment.state is EnvironmentState.READY:
                image = None  # gone, or another has its name
            await self._catalog.building(id)
            reused = image is not None
            try:
                if image is None:
                    await build.forward(self._python.fetch(lock))
                    await build.forward(self._images.build(self._order(id, lock, interpreter)))
                    image = await self._images.find(id)
                if image is None:
                    msg = "the image was gone as soon as it was built"
                    raise BuildFailed(msg, log_tail="")
                ready = await self._catalog.ready(id, image)
            except asyncio.CancelledError:
                await self._catalog.failed(id, "stopped" if self._closing else "timed out")
                raise
            except KodouError as exc:
                await self._catalog.failed(id, f"{exc.code}: {exc.detail}")
                raise
            except Exception as exc:
                await self._catalog.failed(id, type(exc).__name__)
                raise
        measure(await self._images.list())
        return Built(ready, image, reused=reused)

    def _order(self, id: str, lock: Lock, interpreter: Interpreter) -> BuildOrder:
        return BuildOrder(
            environment_id=id,
            interpreter=interpreter,
            files=self._python.files(lock),
            from_source=lock.from_source,
            labels={
                "io.kodou.environment": id,
                "io.kodou.language": interpreter.language,
                "io.kodou.version": interpreter.version,
                "io.kodou.interpreter": interpreter.digest,
                "io.kodou.platform": interpreter.platform,
                "io.kodou.packages": " ".join(f"{name}=={version}" for name, version in sorted(lock.packages.items())),
            },
            timeout_s=self._settings.build_timeout_s,
            log_tail_bytes=self._settings.build_log_tail_bytes,
        )


def _stands(image: Image | None, environment: Environment) -> TypeGuard[Image]:
    """The image is the one that was built: whoever has the engine can give another its name."""
    return environment.state is EnvironmentState.READY and image is not None and image.ref == environment.image_ref
