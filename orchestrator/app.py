"""The app, from parts passed in. Nothing happens at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route, compile_path
from starlette.types import Receive, Scope, Send

from orchestrator.api import (
    bodies,
    calls,
    describe,
    docs,
    environments,
    health,
    kompose,
    openapi,
    references,
    replies,
    sessions,
)
from orchestrator.api.admission import Admission
from orchestrator.api.head import HeadAsGet
from orchestrator.api.middleware import Edge, HeldBytes
from orchestrator.api.operations import Operations
from orchestrator.api.parts import Parts
from orchestrator.api.problems import MethodNotAllowed, Rendered
from orchestrator.errors import Defect, KodouError, NotFound
from orchestrator.settings import Settings

__all__ = ["App", "Parts", "create_app"]

_CALL_PATH = compile_path(calls.PATH)[0]
_DESCRIPTION = "Runs functions of any Python library in sandboxes, by name."


@lru_cache(maxsize=64)
def _language_called(path: str) -> str:
    """Empty where the path is no call's."""
    found = _CALL_PATH.fullmatch(path)
    return found["language"] if found else ""


class App(FastAPI):
    """Hands calls and compositions to their endpoints before the framework's own layers, which would cost a call as much
    again."""

    def __init__(
        self,
        calling: calls.CallEndpoint,
        composing: kompose.KomposeEndpoint,
        admission: Admission,
        settings: Settings,
        held: HeldBytes,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._calling = calling
        self._composing = composing
        self._admission = admission
        self._call_edge = Edge(calling, settings, held)
        self._kompose_edge = Edge(composing, settings, held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
        elif language := _language_called(scope["path"]):
            scope["path_params"] = {"language": language}
            scope["endpoint"] = self._calling
            await self._call_edge(scope, receive, send)
        elif scope["path"] == kompose.PATH:
            scope["endpoint"] = self._composing
            await self._kompose_edge(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def refusal(self, scope: Scope) -> Rendered | None:
        """See `admission.Refuser`. None for what is no call."""
        if not self._admission.refusing() or scope["method"] != "POST" or scope["query_string"]:
            return None
        if _language_called(scope["path"]):
            scope["endpoint"] = self._calling
            return self._call_edge.refusal(scope, self._admission.refusal)
        if scope["path"] == kompose.PATH:
            scope["endpoint"] = self._composing
            return self._kompose_edge.refusal(scope, self._admission.refusal)
        return None


def create_app(parts: Parts) -> App:
    """The API over `parts`. Its lifespan starts them and, at the end, drains and closes them."""
    operations = Operations()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await parts.sessions.start()  # first: it refuses a second server on this data directory
        await parts.environments.start()
        parts.preparation.start()
        try:
            yield
        finally:
            await parts.sessions.drain(parts.settings.shutdown_s)
            await operations.aclose()
            await composing.aclose()
            await parts.preparation.aclose()
            await parts.environments.aclose()
            await parts.sessions.aclose()
            await parts.backend.aclose()
            await parts.store.close()

    calling = calls.CallEndpoint(parts)
    composing = kompose.KomposeEndpoint(parts, calling.uploads)
    held = HeldBytes(parts.settings.max_held_bytes)
    app = App(
        calling,
        composing,
        Admission(parts),
        parts.settings,
        held,
        title="kodou",
        version=version("kodou-server"),
        summary=_DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        openapi_url=None,  # these pages load from other hosts; `api/docs.py` has ours
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,  # the redirect would go to whatever the Host header says
        exception_handlers={HTTPException: _http_problem, RequestValidationError: _validation_problem},
    )
    app.openapi = lambda: openapi.describe(app, parts.settings)  # type: ignore[method-assign]
    for path, endpoint in ((calls.PATH, calling), (kompose.PATH, composing)):
        app.router.routes.append(Route(path, endpoint, methods=["POST"]))  # for the 405 of other methods
    app.include_router(describe.router(parts))
    app.include_router(environments.router(parts, operations))
    app.include_router(sessions.router(parts))
    app.include_router(references.router(parts))
    app.include_router(health.router(parts))
    app.include_router(docs.router(app))
    app.add_middleware(HeadAsGet)
    app.add_middleware(Edge, settings=parts.settings, held=held)
    return app


async def _http_problem(request: Request, exc: Exception) -> Response:
    """What the framework itself refuses: no such route, no such method there."""
    error: KodouError = Defect(str(exc))
    if isinstance(exc, HTTPException) and exc.status_code == 404:
        error = NotFound(f"there is nothing at {request.url.path!r}")
    if isinstance(exc, HTTPException) and exc.status_code == 405:
        allow = ", ".join(_allowed(request, exc))
        error = MethodNotAllowed(f"{request.method} is not among the methods here: {allow}", allow=allow)
    return replies.problem(request, error)


def _allowed(request: Request, exc: HTTPException) -> list[str]:
    """The methods of the path that was asked for; the framework has a route of its own for each, and tells one's."""
    path = getattr(request.scope.get("route"), "path", "")
    described = request.app.openapi()["paths"].get(path) or (exc.headers or {}).get("Allow", "").split(", ")
    allowed = {method.upper() for method in described}
    return sorted(allowed | {"HEAD"} if "GET" in allowed else allowed)


async def _validation_problem(request: Request, exc: Exception) -> Response:
    """A query parameter or a header of the wrong kind; bodies have a way of their own."""
    if not isinstance(exc, RequestValidationError):
        raise exc
    return replies.problem(request, bodies.invalid_members(exc.errors()))
