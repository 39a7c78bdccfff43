"""Environments: from a request to a built image, each built once however many ask."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from time import perf_counter

from orchestrator import telemetry
from orchestrator.environments.assembly import Assembly
from orchestrator.environments.build import Build, Built
from orchestrator.environments.catalog import Catalog
from orchestrator.environments.images import measure
from orchestrator.environments.lock import Lock, LockedFile, id_of
from orchestrator.environments.lock_document import LockDocument
from orchestrator.environments.locks import EnvironmentLocks
from orchestrator.environments.python import PythonBuilder
from orchestrator.environments.requirements import canonical, request_digest
from orchestrator.environments.versions import exact, match
from orchestrator.errors import (
    BuildFailed,
    DependencyUnresolvable,
    IndexUnavailable,
    InvalidRequest,
    KodouError,
    NotFound,
    RateLimited,
    ShuttingDown,
)
from orchestrator.records import Environment, EnvironmentState
from orchestrator.sandboxes.backend import BuildEvent, Image, ImageStore, Interpreter
from orchestrator.settings import Settings
from orchestrator.store.base import Store
from orchestrator.turns import Turns
from orchestrator.unforeseen import ours

__all__ = ["Build", "Built", "Environments"]

# What a build under way is found by: a request's digest or an environment's id, and whether it is to be resolved anew.
_Key = tuple[str, bool]
_Make = Callable[[Build], Coroutine[None, None, Built]]

_BUSY_AFTER_S = 10.0
_WHEELS_KEPT_S = 30 * 86_400.0


class Environments:
    """The one door to environments. Belongs to one event loop; other server processes may share the data directory."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        images: ImageStore,
        *,
        backend: str,
        held: Callable[[str], Image | None] = lambda _: None,
    ) -> None:
        """`held`: see `Assembly`."""
        self._settings = settings
        self._images = images
        self._backend = backend
        self._catalog = Catalog(store)
        self._locks = EnvironmentLocks(settings.data_dir)
        self._python = PythonBuilder(settings, images)
        self._assembly = Assembly(
            settings, self._catalog, images, self._python, self._locks, backend=backend, held=held
        )
        self._turns = Turns(settings.max_builds)
        self._of_owner: Counter[str] = Counter()  # builds that run or wait, by who asked first
        self._running: dict[_Key, Build] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._touching: set[asyncio.Task[None]] = set()
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
        self._closing = self._assembly.closing = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._touching, return_exceptions=True)
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
        self._check_open()
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
        key = (request, refresh)
        make = partial(self._resolved, request, interpreter, wanted, stored=known, refresh=refresh)
        return self._running.get(key) or self._begin(key, make, owner)

    async def remake(self, language: str, document: LockDocument, *, owner: str = "") -> Build:
        """The build of what a lock says: the same files, on the interpreter of its version that there is here.

        Where interpreter, base and runner are those of the lock, so is the environment's id.
        Raises:  NotFound (language), InvalidRequest (another language's lock, or one that was changed), UnknownVersion,
                 RateLimited, ShuttingDown.
        """
        self._check_open()
        interpreter = exact(document.python, await self.offered(language))
        if document.language != language:
            msg = f"lock.language: is another than {language}"
            raise InvalidRequest(msg, field="lock.language")
        document.check_base(interpreter)
        id = id_of(document.files, interpreter.digest, interpreter.version, interpreter.platform)
        environment = await self._catalog.find(id)
        standing = None if environment is None else await self._assembly.standing(environment)
        if standing is not None:
            return Build.done(standing)
        key = (id, False)
        make = partial(self._relocked, interpreter, document.files, stored=environment)
        return self._running.get(key) or self._begin(key, make, owner)

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

    def touch(self, environment_id: str) -> None:
        """Count one use, behind: a session was opened on it, which is not to wait for that."""
        task = asyncio.create_task(self._touch(environment_id))
        self._touching.add(task)
        task.add_done_callback(self._touching.discard)

    async def _touch(self, environment_id: str) -> None:
        try:
            await self._catalog.touch(environment_id)
        except KodouError as exc:
            telemetry.log.warning("a use was not counted", environment=environment_id, reason=exc.detail)

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
        return await self._assembly.standing(environment) or environment

    def _check_open(self) -> None:
        if self._closing:
            msg = "the server is stopping"
            raise ShuttingDown(msg)

    def _begin(self, key: _Key, make: _Make, owner: str) -> Build:
        self._check_open()
        if len(self._running) >= self._settings.max_builds + self._settings.max_builds_waiting:
            msg = f"{len(self._running)} builds run or wait already"
            raise RateLimited(msg, after_s=_BUSY_AFTER_S)
        if self._of_owner[owner] >= self._settings.max_builds_per_owner:
            msg = f"{self._of_owner[owner]} builds of yours run or wait already, the most there may be"
            raise RateLimited(msg, after_s=_BUSY_AFTER_S)
        build = Build()
        work = make(build)
        task = asyncio.create_task(self._run(build, work, owner), name=f"build {key[0][:24]}")
        self._running[key] = build
        self._of_owner[owner] += 1
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, key, build, work, owner))
        return build

    def _ended(
        self,
        task: asyncio.Task[None],
        key: _Key,
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
                build.turn_came = perf_counter()
                built = await self._in_time(work)
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
            if not built.reused:
                with suppress(KodouError):  # nobody waits for this
                    measure(await self._images.list())

    async def _in_time(self, work: Coroutine[None, None, Built]) -> Built:
        try:
            async with asyncio.timeout(self._settings.build_timeout_s):
                return await work
        except TimeoutError as exc:
            msg = f"the build took longer than {self._settings.build_timeout_s:g} s"
            raise BuildFailed(msg, log_tail="") from exc

    async def _resolved(
        self,
        request: str,
        interpreter: Interpreter,
        wanted: Sequence[str],
        build: Build,
        *,
        stored: Environment | None,
        refresh: bool,
    ) -> Built:
        lock = None if stored is None else await self._stored_lock(stored, interpreter)
        if lock is not None:
            return await self._assembly.make(build, lock, interpreter)
        build.publish(BuildEvent("resolve"))
        try:
            lock = await self._python.lock(interpreter, wanted, refresh=refresh)
        except IndexUnavailable as exc:
            stale = None if refresh else await self._known(request, max_age_s=None)
            if not isinstance(stale, Built):
                raise
            telemetry.log.warning("stale environment served", environment=stale.environment.id, why=exc.detail)
            return stale
        built = await self._assembly.make(build, lock, interpreter)
        return replace(built, replaced=await self._catalog.point(request, built.environment.id))

    async def _relocked(
        self, interpreter: Interpreter, files: Sequence[LockedFile], build: Build, *, stored: Environment | None
    ) -> Built:
        lock = None if stored is None else await self._stored_lock(stored, interpreter)
        if lock is None:
            build.publish(BuildEvent("resolve"))
            lock = await self._python.relock(interpreter, files)
        return await self._assembly.make(build, lock, interpreter)

    async def _stored_lock(self, stored: Environment, interpreter: Interpreter) -> Lock | None:
        """The lock of an environment whose image is gone. None: the settings refuse it by now."""
        try:
            return await self._python.parse(stored.lock, interpreter)
        except DependencyUnresolvable:
            return None
