"""For those who watch: is the process up, can it take a setup, and what has it done."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Literal

from fastapi import APIRouter, Request
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.responses import Response

from orchestrator import telemetry
from orchestrator.api import replies
from orchestrator.api.credentials import principal_of
from orchestrator.api.openapi import PUBLIC
from orchestrator.api.parts import Parts
from orchestrator.api.problems import NotReady
from orchestrator.errors import EngineUnavailable, KodouError
from orchestrator.records import Key

_CHECKED_S = 2.0  # probes come from several sides; the engine is asked once for all of them
_IMAGES_S = 15.0
_PATIENCE_S = 5.0
_OK = "ok"
# No sandbox carries this label: the engine has to answer, with little.
_NOTHING = {"io.kodou.probe": "readiness"}


class HealthReply(BaseModel):
    error: Literal[False]
    status: Literal["ok"]


class ReadyReply(BaseModel):
    error: Literal[False]
    status: Literal["ready"]
    checks: dict[str, str] = Field(description="What was looked at, and that it is `ok`.")


def router(parts: Parts) -> APIRouter:
    routes = APIRouter(tags=["health"])
    readiness = Readiness(parts)
    images = _ImageGauges(parts)

    @routes.get(
        "/healthz",
        summary="The process is up",
        response_class=Response,
        responses={200: {"model": HealthReply}},
        openapi_extra=PUBLIC,
    )
    async def healthz() -> Response:
        return replies.reply({"error": False, "status": _OK})

    @routes.get(
        "/readyz",
        summary="Setups and calls can be served",
        response_class=Response,
        responses={200: {"model": ReadyReply}},
        openapi_extra=PUBLIC,
    )
    async def readyz() -> Response:
        return replies.reply({"error": False, "status": "ready", "checks": await readiness.check()})

    @routes.get(
        "/metrics",
        summary="Metrics, in the Prometheus text format",
        description="Public, or for keys with `admin`, as the server is set.",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}},
        openapi_extra=PUBLIC if parts.settings.metrics_public else None,
    )
    async def metrics(request: Request) -> Response:
        if not parts.settings.metrics_public:
            principal = await principal_of(request.scope, parts.keys, parts.limits.failures)
            principal.require("admin")
        await images.refresh()
        return Response(generate_latest(telemetry.REGISTRY), headers={"content-type": CONTENT_TYPE_LATEST})

    return routes


class Readiness:
    """Asks the store, the engine and for interpreters; an answer counts for two seconds."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = asyncio.Lock()
        self._checks: dict[str, str] = {}
        self._checked_at = -_CHECKED_S

    async def check(self) -> dict[str, str]:
        """What was found, all well. Raises: NotReady: names what is not."""
        async with self._lock:
            if time.monotonic() - self._checked_at >= _CHECKED_S:
                store, engine, interpreters = await asyncio.gather(
                    _found(self._parts.store.get(Key, "")),
                    _found(self._parts.backend.owned(_NOTHING)),
                    _found(self._interpreters()),
                )
                self._checks = {"store": store, "engine": engine, "interpreters": interpreters}
                self._checked_at = time.monotonic()
        if any(found != _OK for found in self._checks.values()):
            raise NotReady(self._checks)
        return self._checks

    async def _interpreters(self) -> None:
        if await self._parts.preparation.default() is None:
            msg = "being prepared"
            raise EngineUnavailable(msg)


class _ImageGauges:
    """Counting images may ask the engine much; a scrape in a hurry gets the last count."""

    def __init__(self, parts: Parts) -> None:
        self._images = parts.backend.images
        self._counted_at = -_IMAGES_S

    async def refresh(self) -> None:
        if time.monotonic() - self._counted_at < _IMAGES_S:
            return
        self._counted_at = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                images = await self._images.list()
        except (KodouError, TimeoutError) as exc:
            telemetry.log.warning("images not counted", reason=str(exc))
            return
        telemetry.IMAGES.set(len(images))
        telemetry.IMAGE_BYTES.set(sum(image.size_bytes for image in images))


async def _found(asking: Awaitable[object]) -> str:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await asking
    except KodouError as exc:
        return exc.detail
    except TimeoutError:
        return f"no answer within {_PATIENCE_S:g} s"
    return _OK
