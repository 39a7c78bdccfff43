"""DirectoryImages: environments as directories of this host, for the backends without an engine.

`<environments dir>/<id>/` holds `env`, the virtual environment, and `image.json`, what is to be known of it. It appears
whole, by one rename, and belongs to the server: what built it can write it no more, nor can anything that runs in it.
"""

import asyncio
import builtins
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from packaging.version import Version

from orchestrator.errors import BuildFailed, Defect, KodouError, NotFound
from orchestrator.sandboxes.backend import BuildEvent, BuildOrder, Image, Interpreter
from orchestrator.sandboxes.bubblewrap.options import Mount
from orchestrator.sandboxes.builder_commands import BuilderCommands
from orchestrator.sandboxes.directories import trees
from orchestrator.sandboxes.directories.builders import BuilderJob, BuilderRuns, WatchedBuilder, WriteLimits, building
from orchestrator.sandboxes.directories.handles import HandleFiles
from orchestrator.sandboxes.foundation import Foundation, sharing
from orchestrator.sandboxes.interpreters import candidates, described
from orchestrator.sandboxes.layout import BUILD, BUILDER_COMMAND, ENV, INDEX, LIB
from orchestrator.sandboxes.library import runner_version, sources_digest, write_bare_interpreter, write_library
from orchestrator.sandboxes.workspace import Workspace, left_behind
from orchestrator.settings import Settings
from orchestrator.telemetry import log

COMPILE_TIMEOUT_S = 60.0
_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}")  # of an environment: the name of its directory
_REMOVED = "removed-"
_DIGEST_DIGITS = 16  # of a digest, where it names a directory
# How a digest comes about; raised when that changes, or when what an environment holds does.
_RECIPE = "2"


@dataclass(frozen=True, slots=True)
class BuiltDirectory:
    """Where the parts of an image lie on this host."""

    env: Path
    library: Path
    interpreter: Path


class DirectoryImages:
    """The `ImageStore` of the bubblewrap and process backends. `run` runs a builder; `handles` tells what is in use."""

    def __init__(self, settings: Settings, *, backend: str, run: BuilderRuns, handles: HandleFiles) -> None:
        self._settings = settings
        self._backend = backend
        self._run = run
        self._handles = handles
        self._commands = BuilderCommands(settings, self._building)
        self._offered: dict[str, Interpreter] = {}  # by version, newest first
        self._preparing = asyncio.Lock()

    async def prepare(self) -> None:
        async with self._preparing:
            await asyncio.to_thread(self._make_directories)
            sources = await asyncio.to_thread(sources_digest)
            offered: dict[str, Interpreter] = {}
            for executable in await asyncio.to_thread(candidates, self._settings.interpreters):
                interpreter = await self._interpreter(executable, sources)
                if interpreter is not None:
                    offered.setdefault(interpreter.version, interpreter)
            self._offered = dict(sorted(offered.items(), key=lambda item: Version(item[0]), reverse=True))

    async def interpreters(self) -> list[Interpreter]:
        return list(self._offered.values())

    async def lock_in_sandbox(self, interpreter: Interpreter, requirements: Sequence[str], *, timeout_s: float) -> str:
        return await self._commands.lock(interpreter.base, requirements, timeout_s=timeout_s)

    async def build(self, order: BuildOrder) -> AsyncIterator[BuildEvent]:
        images = await self.list()
        async with aclosing(self._commands.install(order, partial(self._commit, order), images)) as events:
            async for event in events:
                yield event

    async def find(self, environment_id: str) -> Image | None:
        found = await asyncio.to_thread(self._read, environment_id)
        return None if found is None else _image(environment_id, found)

    async def list(self) -> list[Image]:
        return await asyncio.to_thread(self._list)

    async def remove(self, image: Image) -> bool:
        return await asyncio.to_thread(self._remove, image)

    def located(self, image: Image) -> BuiltDirectory:
        """Where its parts are. Blocks. Raises `NotFound` if the image is gone."""
        found = self._read(image.ref)
        if found is None:
            msg = f"image {image.ref} is gone; set the environment up again"
            raise NotFound(msg)
        return BuiltDirectory(
            env=self._settings.environments_dir / image.ref / "env",
            library=self._library(found["interpreter"]["digest"]),
            interpreter=Path(found["interpreter"]["base"]),
        )

    # --- interpreters ---

    async def _interpreter(self, executable: Path, sources: str) -> Interpreter | None:
        try:
            status = await asyncio.to_thread(executable.stat)
            line = await self._commands.probe(str(executable))
            about = [str(executable), status.st_mtime_ns, status.st_size, line.decode(errors="replace")]
            interpreter = described(
                line,
                base=str(executable),
                digest=_sha256([_RECIPE, self._backend, sources, *about]),
                base_digest=f"sha256:{_sha256(about)}",
                runner=runner_version(sources),
            )
            await self._compile_library(interpreter)
        except (KodouError, OSError) as exc:
            # One that was asked for is missed; one that was come across is not.
            tell = log.warning if self._settings.interpreters else log.debug
            tell("interpreter_unusable", interpreter=str(executable), error=str(exc))
            return None
        return interpreter

    async def _compile_library(self, interpreter: Interpreter) -> None:
        """Make the library's copy for an interpreter, with its bytecode: every sandbox of it starts the faster."""
        final = self._library(interpreter.digest)
        if await asyncio.to_thread(final.exists):
            return
        new = final.with_name(f".{final.name}-{secrets.token_hex(4)}")
        try:
            await asyncio.to_thread(write_library, new)
            await asyncio.to_thread(write_bare_interpreter, new, Path(interpreter.base))
            command = ("-I", "-m", "compileall", "-q", LIB)
            job = BuilderJob(Path(interpreter.base), command, [Mount(new, LIB, writable=True)], COMPILE_TIMEOUT_S)
            async with building(self._run, job, None) as builder:
                said = b"".join([out + err async for out, err in builder.output()])
                ended = await builder.ended()
                if ended.exit_code != 0 or ended.verdict is not None:
                    msg = f"the runner could not be compiled: {ended.verdict or said.decode(errors='replace')}"
                    raise Defect(msg)
                await asyncio.to_thread(trees.take_over, new)
            with suppress(FileExistsError):
                await asyncio.to_thread(new.rename, final)
        finally:
            await asyncio.to_thread(trees.delete, new)

    def _compiled(self, base: str) -> Path | None:
        """The library's copy for an interpreter, with its bytecode. None: that is not made yet."""
        digests = [each.digest for each in self._offered.values() if each.base == base]
        return self._library(digests[0]) if digests else None

    def _library(self, digest: str) -> Path:
        return self._settings.data_dir / "tools" / f"lib-{digest[:_DIGEST_DIGITS]}"

    # --- builds ---

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
    ) -> AsyncIterator[WatchedBuilder]:
        """What is built upon a foundation is put beside it afterwards: no builder ever sees another environment's files."""
        library = self._compiled(base)
        if library is None:
            library = workspace.root / "lib"
            await asyncio.to_thread(write_library, library)
        mounts = [Mount(library, LIB), Mount(workspace.build, BUILD), Mount(workspace.index, INDEX)]
        limits = None
        if writable:
            env = _image_directory(workspace) / "env"
            await asyncio.to_thread(env.mkdir, parents=True)
            mounts.append(Mount(env, ENV, writable=True))
            limits = WriteLimits(env, self._settings.build_disk_mb, self._settings.build_files)
        job = BuilderJob(Path(base), [*BUILDER_COMMAND, *arguments], mounts, timeout_s)
        async with building(self._run, job, limits) as builder:
            yield builder

    async def _commit(self, order: BuildOrder, workspace: Workspace, foundation: Foundation | None) -> None:
        await asyncio.to_thread(self._keep, order, _image_directory(workspace), foundation)

    def _keep(self, order: BuildOrder, new: Path, foundation: Foundation | None) -> None:
        env = new / "env"
        most = self._settings.build_files
        try:
            trees.take_over(env)
            if foundation is not None:
                trees.add_links(self._directory(foundation.image.ref) / "env", env)
            usage = trees.measure(env, max_files=most)
        except trees.TreeTooDeep as exc:
            msg = "the environment's directories nest too deep"
            raise BuildFailed(msg, log_tail="") from exc
        exceeded = WriteLimits(env, self._settings.build_disk_mb, most).exceeded_by(usage)
        if exceeded is not None:
            raise BuildFailed(exceeded, log_tail="")
        about = {
            "environment_id": order.environment_id,
            "created_at": datetime.now(UTC).isoformat(),
            "size_bytes": usage.bytes,
            "labels": {**order.labels, **sharing(order, foundation, count=usage.files)},
            "interpreter": {"base": order.interpreter.base, "digest": order.interpreter.digest},
        }
        (new / "image.json").write_text(json.dumps(about))
        new.chmod(0o711)
        final = self._directory(order.environment_id)
        if final.exists() and self._read(order.environment_id) is None:
            self._discard(final)  # half of one, from a crash
        with suppress(FileExistsError):  # else another process was first, with the same
            new.rename(final)

    # --- images ---

    def _list(self) -> builtins.list[Image]:
        names = []
        with suppress(FileNotFoundError):
            names = sorted(path.name for path in self._settings.environments_dir.iterdir())
        read = {name: self._read(name) for name in names if _ID.fullmatch(name)}
        return [_image(name, about) for name, about in read.items() if about is not None]

    def _read(self, environment_id: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self._directory(environment_id) / "image.json").read_bytes())
            return found if found["environment_id"] == environment_id else None
        except (NotFound, OSError, ValueError, KeyError, TypeError):
            return None

    def _remove(self, image: Image) -> bool:
        directory = self._directory(image.ref)
        away = self._settings.builds_dir / f"{_REMOVED}{secrets.token_hex(8)}"
        try:
            directory.rename(away)
        except FileNotFoundError:
            return True
        # Looked for once it is away: a sandbox starting now has written its handle, or does not find the image.
        if any(sandbox.environment_id == image.environment_id for sandbox in self._handles.all()):
            away.rename(directory)
            return False
        trees.delete(away)
        return True

    def _directory(self, environment_id: str) -> Path:
        if not _ID.fullmatch(environment_id):
            msg = f"{environment_id!r} is no environment's id"
            raise NotFound(msg)
        return self._settings.environments_dir / environment_id

    def _discard(self, directory: Path) -> None:
        away = self._settings.builds_dir / f"{_REMOVED}{secrets.token_hex(8)}"
        directory.rename(away)
        trees.delete(away)

    def _make_directories(self) -> None:
        settings = self._settings
        for path, mode in (
            (settings.data_dir, 0o711),
            (settings.builds_dir, 0o711),
            (settings.environments_dir, 0o711),
            (settings.data_dir / "tools", 0o755),
        ):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)  # whatever the umask is: sandboxes' user ids pass through
        left_behind(settings.builds_dir)
        for path in settings.builds_dir.glob(f"{_REMOVED}*"):  # a crash came between the renaming and the deletion
            trees.delete(path)


def _image_directory(workspace: Workspace) -> Path:
    return workspace.root / "image"


def _image(environment_id: str, about: dict[str, Any]) -> Image:
    return Image(
        environment_id=environment_id,
        ref=environment_id,
        size_bytes=about["size_bytes"],
        created_at=datetime.fromisoformat(about["created_at"]),
        labels=about["labels"],
    )


def _sha256(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
