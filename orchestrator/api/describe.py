"""What there is to call in a session: names, signatures, docs. Nothing of it is called."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header, Request
from runner import frames
from starlette.responses import Response

from orchestrator.api import answers, bodies, call_bodies, session_ids
from orchestrator.api.credentials import scoped
from orchestrator.api.describe_schemas import DescribeBody, DescribeReply
from orchestrator.api.openapi import session_reply_described
from orchestrator.api.parts import Parts
from orchestrator.auth.keys import Principal
from orchestrator.errors import InvalidRequest
from orchestrator.sandboxes.work import Work
from orchestrator.settings import Settings


def router(parts: Parts) -> APIRouter:
    routes = APIRouter(tags=["calls"])
    caller = Annotated[Principal, Depends(scoped(parts.keys, parts.limits, "call"))]

    @routes.post(
        "/environment/{language}/describe",
        summary="What there is to call",
        response_class=Response,
        responses=session_reply_described(DescribeReply),
        openapi_extra=bodies.described(DescribeBody, required=False),
    )
    async def describe(
        request: Request,
        language: str,
        principal: caller,
        x_session_id: Annotated[
            str | None, Header(alias="X-Session-ID", description="The session, where no body names it.")
        ] = None,
    ) -> Response:
        """Modules are imported to be looked at. Nothing else is run: no property, no `__getattr__`."""
        await parts.environments.offered(language)
        body = await bodies.read(request, DescribeBody, parts.settings, optional=True)
        asked = body.model_dump(exclude={"sessionid", "timeout"}, exclude_none=True)
        return await answers.answer(
            parts,
            principal,
            session_ids.named(body.sessionid, x_session_id),
            Work(frames.DESCRIBE, msgspec.json.encode(asked)),
            timeout_s=_timeout_s(body.timeout, parts.settings),
        )

    return routes


def _timeout_s(timeout: object, settings: Settings) -> float:
    """Raises: InvalidRequest."""
    if timeout is None:
        return call_bodies.timeout_seconds(msgspec.UNSET, settings)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float | str):
        msg = "timeout must be milliseconds, as a positive number or a string of at most twenty digits"
        raise InvalidRequest(msg, field="timeout")
    return call_bodies.timeout_seconds(timeout, settings)
