"""Python environments: uv resolves, on this host as long as wheels do, else in a builder sandbox."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from orchestrator.environments.lock import EMPTY_LOCK, Lock, LockedFile
from orchestrator.environments.pins import narrowed, pin
from orchestrator.environments.wheels import WheelStore
from orchestrator.errors import Defect, DependencyUnresolvable, KodouError
from orchestrator.packages.explain import explanation, needs_source_build, resolve_failure
from orchestrator.packages.index import Index
from orchestrator.packages.uv import UvResult, run_uv
from orchestrator.sandboxes.backend import BuildEvent, ImageStore, Interpreter
from orchestrator.settings import Settings
from orchestrator.telemetry import log

RESOLVE_TIMEOUT_S = 120.0
_NO_SOURCE_BUILDS = "a package has no wheel for this interpreter, and this server builds nothing from source"


class PythonBuilder:
    """From a canonical dependency set to the files of its environment. Runs nothing of a package on this host."""

    language = "python"

    def __init__(self, settings: Settings, images: ImageStore) -> None:
        self._settings = settings
        self._images = images
        self._index = Index.of(settings)
        self._wheels = WheelStore(settings)

    async def lock(self, interpreter: Interpreter, dependencies: Sequence[str], *, refresh: bool = False) -> Lock:
        """Resolve a canonical set; `refresh`: ask the index even for what it said minutes ago.

        Raises `DependencyUnresolvable`, `IndexUnavailable`, `BuildFailed`.
        """
        if not dependencies:
            return await self.parse(EMPTY_LOCK, interpreter)
        arguments = self._arguments(interpreter)
        result = await self._compile([*arguments, "--refresh"] if refresh else arguments, dependencies, fresh=refresh)
        if result.code == 0:
            return await self.parse(result.stdout, interpreter)
        if not needs_source_build(result.code, result.stderr):
            raise self._failure(result)
        if not self._settings.allow_source_builds:
            msg = f"no solution with wheels only, and this server builds nothing from source\n{explanation(result.stderr)}"
            raise DependencyUnresolvable(msg)
        text = await self._images.lock_in_sandbox(interpreter, dependencies, timeout_s=self._settings.build_timeout_s)
        return await self.parse(text, interpreter)

    async def relock(self, interpreter: Interpreter, files: Sequence[LockedFile]) -> Lock:
        """The lock of exactly these files, as this server's index has them; nothing else is resolved.

        Raises `DependencyUnresolvable`, `IndexUnavailable`, `BuildFailed`.
        """
        wheels = [pin(file) for file in files if not file.is_sdist]
        sdists = [pin(file) for file in files if file.is_sdist]
        if sdists and not self._settings.allow_source_builds:
            raise DependencyUnresolvable(_NO_SOURCE_BUILDS)
        texts = []
        if wheels:
            result = await self._compile([*self._arguments(interpreter), "--no-deps"], wheels)
            if result.code != 0:
                raise self._failure(result)
            texts.append(result.stdout)
        if sdists:  # what a source needs is known only once its own code has run
            timeout_s = self._settings.build_timeout_s
            texts.append(await self._images.lock_in_sandbox(interpreter, sdists, timeout_s=timeout_s))
        return await self.parse(await asyncio.to_thread(narrowed, texts, files, self._index), interpreter)

    async def parse(self, text: str, interpreter: Interpreter) -> Lock:
        """Check a lock's text, whoever made it. Raises `DependencyUnresolvable`."""
        lock = await asyncio.to_thread(Lock.parse, text, interpreter, self._index)
        if lock.from_source and not self._settings.allow_source_builds:
            raise DependencyUnresolvable(_NO_SOURCE_BUILDS)
        return lock

    def fetch(self, lock: Lock) -> AsyncGenerator[BuildEvent, None]:
        """Bring the lock's files to this host; see `WheelStore.fetch`."""
        return self._wheels.fetch(lock.files)

    def files(self, lock: Lock) -> list[Path]:
        """Where they lie, once fetched."""
        return [self._wheels.path(file) for file in lock.files]

    async def aclose(self) -> None:
        await self._wheels.aclose()

    async def sweep(self, older_than_s: float) -> None:
        """See `WheelStore.sweep`."""
        await self._wheels.sweep(older_than_s)

    async def _compile(self, arguments: Sequence[str], dependencies: Sequence[str], *, fresh: bool = False) -> UvResult:
        timeout_s = min(RESOLVE_TIMEOUT_S, self._settings.build_timeout_s)
        try:
            return await run_uv(
                arguments,
                settings=self._settings,
                stdin="\n".join(dependencies) + "\n",
                timeout_s=timeout_s,
                fresh=fresh,
            )
        except TimeoutError as exc:
            msg = f"no solution was found within {timeout_s:g} s; narrower versions may help"
            raise DependencyUnresolvable(msg) from exc

    def _failure(self, result: UvResult) -> KodouError:
        failure = resolve_failure(result.code, result.stderr, settings=self._settings, from_source=False)
        if isinstance(failure, Defect):
            log.error("resolver_failed", code=result.code, stderr=result.stderr[-4096:])
        return failure

    def _arguments(self, interpreter: Interpreter) -> list[str]:
        arguments = [
            *("pip", "compile", "-"),
            *("--format", "pylock.toml", "--no-header", "--no-annotate", "--no-sources"),
            *("--only-binary", ":all:"),  # nothing is built, so nothing of a package runs here
            *("--python", sys.executable, "--python-version", interpreter.version),
            *("--python-platform", interpreter.platform),
        ]
        if self._settings.exclude_newer is not None:
            arguments += ["--exclude-newer", self._settings.exclude_newer]
        return arguments
