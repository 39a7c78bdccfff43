"""From a lock to the image of its environment: made once, whoever asks for it, in this process or another."""

import asyncio
from collections.abc import Callable

from orchestrator.environments.build import Build, Built
from orchestrator.environments.catalog import Catalog
from orchestrator.environments.lock import Lock, environment_id
from orchestrator.environments.lock_document import LockDocument
from orchestrator.environments.locks import EnvironmentLocks
from orchestrator.environments.python import PythonBuilder
from orchestrator.errors import BuildFailed, KodouError
from orchestrator.packages.index import Index
from orchestrator.records import Environment, EnvironmentState
from orchestrator.sandboxes.backend import BuildOrder, Image, ImageStore, Interpreter
from orchestrator.sandboxes.labels import image_labels
from orchestrator.settings import Settings


class Assembly:
    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        images: ImageStore,
        python: PythonBuilder,
        locks: EnvironmentLocks,
        *,
        backend: str,
        held: Callable[[str], Image | None],
    ) -> None:
        """`held`: an environment's image that a waiting sandbox runs on, if there is one."""
        self.closing = False
        self._held = held
        self._settings = settings
        self._catalog = catalog
        self._images = images
        self._python = python
        self._locks = locks
        self._backend = backend
        self._index_url = Index.of(settings).url

    async def standing(self, environment: Environment) -> Built | None:
        """The environment with its image, if that is the one that was built: whoever has the engine can give another its
        name."""
        if environment.state is not EnvironmentState.READY:
            return None
        held = self._held(environment.id)  # what runs need not be asked for, which takes an engine milliseconds
        if held is not None and held.ref == environment.image_ref:
            return Built(environment, held, reused=True)
        image = await self._images.find(environment.id)
        if image is None or image.ref != environment.image_ref:
            return None
        return Built(environment, image, reused=True)

    async def make(self, build: Build, lock: Lock, interpreter: Interpreter) -> Built:
        """The environment of a lock, built if it is not; one process at a time does so. `build` is told how far it is."""
        id = environment_id(lock, interpreter)
        document = LockDocument.of(id, lock, interpreter, index=self._index_url)
        await self._catalog.plan(document, lock, backend=self._backend)
        async with self._locks.held(id):
            environment = await self._catalog.find(id)
            if environment is not None and (standing := await self.standing(environment)) is not None:
                return standing
            # One that is there, of an environment that is not ready: a crash came between the two.
            was_ready = environment is not None and environment.state is EnvironmentState.READY
            image = None if was_ready else await self._images.find(id)
            await self._catalog.building(id)
            try:
                ready, made = await self._made(build, id, lock, interpreter, image)
            except asyncio.CancelledError:
                await self._catalog.failed(id, "stopped" if self.closing else "timed out")
                raise
            except KodouError as exc:
                await self._catalog.failed(id, f"{exc.code}: {exc.detail}")
                raise
            except Exception as exc:
                await self._catalog.failed(id, type(exc).__name__)
                raise
        return Built(ready, made, reused=image is not None)

    async def _made(
        self, build: Build, id: str, lock: Lock, interpreter: Interpreter, image: Image | None
    ) -> tuple[Environment, Image]:
        if image is None:
            await build.forward(self._python.fetch(lock))
            await build.forward(self._images.build(self._order(id, lock, interpreter)))
            image = await self._images.find(id)
        if image is None:
            msg = "the image was gone as soon as it was built"
            raise BuildFailed(msg, log_tail="")
        return await self._catalog.ready(id, image), image

    def _order(self, id: str, lock: Lock, interpreter: Interpreter) -> BuildOrder:
        return BuildOrder(
            environment_id=id,
            interpreter=interpreter,
            files=self._python.files(lock),
            from_source=lock.from_source,
            labels=image_labels(id, interpreter, lock.packages),
            timeout_s=self._settings.build_timeout_s,
            log_tail_bytes=self._settings.build_log_tail_bytes,
            hashes=[file.sha256 for file in lock.files],
        )
