"""Environments: set one up and get a session on it; see which there are."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from time import perf_counter
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response, StreamingResponse

from orchestrator.api import bodies, progress, receipts, replies
from orchestrator.api.credentials import scoped
from orchestrator.api.middleware import request_id
from orchestrator.api.openapi import POLL_LINKS, SETUP_LINKS, problems_described
from orchestrator.api.operations import Operations
from orchestrator.api.parts import Parts
from orchestrator.api.problems import MethodNotAllowed
from orchestrator.api.schemas import EnvironmentDetail, LanguageReply, OperationReply, SetupBody, SetupReply
from orchestrator.api.setups import Setup
from orchestrator.auth.keys import Principal
from orchestrator.environments.versions import match

POLL_AFTER_S = 1
_VERBS = frozenset({"setup", "call", "describe"})  # /environment/{language}/…
_VERBS_ALLOW = "POST"


def router(parts: Parts, operations: Operations) -> APIRouter:
    routes = APIRouter(tags=["environments"])
    setting_up = Annotated[Principal, Depends(scoped(parts.keys, parts.limits, "setup"))]

    async def auth_seconds(arrived: Annotated[float, Depends(_now)], principal: setting_up) -> float:
        """What it took to know the caller: FastAPI goes through dependencies in their order."""
        return perf_counter() - arrived

    async def place(principal: setting_up) -> AsyncIterator[ExitStack]:
        """Among the setups under way: held until the reply or the stream has ended, unless somebody takes it over."""
        with ExitStack() as held:
            held.enter_context(parts.limits.setups.place(principal.owner))
            yield held

    looking = Annotated[Principal, Depends(scoped(parts.keys, parts.limits, "setup", "call", "admin"))]

    @routes.post(
        "/environment/{language}/setup",
        summary="Set up an environment and open a session on it",
        response_class=Response,
        responses={
            200: {
                "model": SetupReply,
                "description": _SETUP_REPLY,
                "headers": receipts.DESCRIBED,
                "content": {progress.MEDIA_TYPE: {}},
                "links": SETUP_LINKS,
            },
            202: {
                "model": OperationReply,
                "description": "With `Prefer: respond-async`: poll `Location`.",
                "links": POLL_LINKS,
            },
            **problems_described(404, 410),
        },
        openapi_extra={**bodies.described(SetupBody), "parameters": [_PREFER]},
    )
    async def setup(
        language: str,
        request: Request,
        auth_s: Annotated[float, Depends(auth_seconds)],
        principal: setting_up,
        held: Annotated[ExitStack, Depends(place)],
    ) -> Response:
        """Builds the image the first time; the same set is never built twice. A client that leaves does not stop it."""
        body = await bodies.read(request, SetupBody, parts.settings)
        streamed = progress.MEDIA_TYPE in ",".join(request.headers.getlist("accept"))
        polled = not streamed and _prefers_async(request)
        begun = await Setup.begin(parts, principal, language, body, auth_s=auth_s)
        if streamed:
            return StreamingResponse(
                progress.stream(begun, request_id(request.scope)),
                media_type=progress.MEDIA_TYPE,
                headers={"X-Accel-Buffering": "no"},  # nginx would hold the events back
            )
        if polled:
            location = f"{request.url.path}/{operations.start(begun, held.pop_all()).id}"
            return _building(location, "resolve", {"Preference-Applied": "respond-async"})
        members = await begun.finish(request.is_disconnected)
        return replies.reply(members or {}, headers=begun.receipt())

    @routes.get(
        "/environment/{language}/setup/{operation}",
        summary="The outcome of a setup that was asked for with `Prefer: respond-async`",
        response_class=Response,
        responses={
            200: {
                "model": SetupReply,
                "description": "The setup's reply.",
                "headers": receipts.DESCRIBED,
                "links": SETUP_LINKS,
            },
            202: {"model": OperationReply, "description": "Still building.", "links": POLL_LINKS},
            **problems_described(404, 410),
        },
    )
    async def poll(language: str, operation: str, request: Request, principal: setting_up) -> Response:
        await parts.environments.offered(language)
        found = operations.get(operation, principal.owner)
        members = found.outcome()
        if members is None:
            return _building(request.url.path, found.phase)
        return replies.reply(members, headers=found.receipt())

    @routes.get(
        "/environment/{language}",
        summary="Interpreters on offer and environments built",
        response_class=Response,
        responses={200: {"model": LanguageReply}, **problems_described(404)},
    )
    async def language(language: str, principal: looking) -> Response:
        """Environments are shared by all who may set one up; who asked for one is not told."""
        offered = await parts.environments.offered(language)
        default = match(None, offered, parts.settings.default_version).version if offered else None
        return replies.reply(
            {
                "error": False,
                "language": language,
                "versions": [interpreter.version for interpreter in offered],
                "default": default,
                "environments": [
                    replies.environment_listed(environment) for environment in await parts.environments.list(language)
                ],
            }
        )

    @routes.get(
        "/environment/{language}/{id}",
        summary="One environment: exact packages, size, lock",
        response_class=Response,
        dependencies=[Depends(_refuse_verbs)],
        responses={200: {"model": EnvironmentDetail}, **problems_described(404)},
    )
    async def environment(language: str, id: str, principal: looking) -> Response:
        return replies.reply(replies.environment_detail(await parts.environments.get(language, id)))

    return routes


_PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`respond-async`: a reply at once, 202, with a `Location` to poll. Other preferences are ignored.",
    "schema": {"type": "string", "examples": ["respond-async"]},
}
_SETUP_REPLY = (
    "The session id and the environment. With `Accept: text/event-stream` a stream: `progress` events "
    "(phase, package, bytes, total, line), then one `ready` event with this body or one `error` event with the problem."
)


async def _now() -> float:
    return perf_counter()


async def _refuse_verbs(id: str) -> None:
    """What is only posted to is no environment, whoever asks."""
    if id in _VERBS:
        msg = f"GET is not among the methods here: {_VERBS_ALLOW}"
        raise MethodNotAllowed(msg, allow=_VERBS_ALLOW)


def _prefers_async(request: Request) -> bool:
    wishes = ",".join(request.headers.getlist("prefer")).split(",")
    return any(wish.partition(";")[0].strip().lower() == "respond-async" for wish in wishes)


def _building(location: str, phase: str, headers: dict[str, str] | None = None) -> Response:
    return replies.reply(
        {
            "error": False,
            "status": "building",
            "phase": phase,
            "operation": location.rpartition("/")[2],
            "location": location,
        },
        202,
        {"Location": location, "Retry-After": str(POLL_AFTER_S), **(headers or {})},
    )
