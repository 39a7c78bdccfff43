"""Sessions: the caller's own, and their end."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from orchestrator.api import bodies, replies, session_ids
from orchestrator.api.credentials import scoped
from orchestrator.api.openapi import problems_described
from orchestrator.api.parts import Parts
from orchestrator.api.schemas import CloseBody, ClosedReply, SessionsReply
from orchestrator.auth.keys import Principal


def router(parts: Parts) -> APIRouter:
    routes = APIRouter(tags=["sessions"])
    known = Annotated[Principal, Depends(scoped(parts.keys, parts.limits, "call", "setup", "admin"))]

    @routes.get(
        "/session",
        summary="Live sessions of the caller",
        response_class=Response,
        responses={200: {"model": SessionsReply}},
    )
    async def sessions(
        principal: known, all: Annotated[bool, Query(description="Those of all owners; needs `admin`.")] = False
    ) -> Response:
        if all:
            principal.require("admin")
        found = await parts.sessions.list(None if all else principal.owner)
        return replies.reply({"error": False, "sessions": [replies.session_listed(session) for session in found]})

    @routes.delete(
        "/session",
        summary="End a session",
        response_class=Response,
        responses={200: {"model": ClosedReply}, **problems_described(404)},
        openapi_extra=bodies.described(CloseBody, required=False),
    )
    async def close(
        request: Request,
        principal: known,
        x_session_id: Annotated[
            str | None, Header(alias="X-Session-ID", description="The session, where no body names it.")
        ] = None,
    ) -> Response:
        """Again is success: what is closed already stays so."""
        body = await bodies.read(request, CloseBody, parts.settings, optional=True)
        await parts.sessions.close(session_ids.named(body.sessionid, x_session_id), principal)
        return replies.reply({"error": False})

    return routes
