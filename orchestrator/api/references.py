"""What a session keeps: results of calls with `keep`, until they are dropped or their interpreter ends."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, ConfigDict, Field
from runner import frames
from starlette.responses import Response

from orchestrator.api import answers, session_ids
from orchestrator.api.credentials import scoped
from orchestrator.api.openapi import session_reply_described
from orchestrator.api.parts import Parts
from orchestrator.auth.keys import Principal
from orchestrator.sandboxes.work import Work


class Reference(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)

    ref: Annotated[str, Field(alias="$ref", examples=["r1"])]
    type: str = Field(description="The Python type's qualified name.", examples=["numpy.ndarray"])
    repr: str = Field(description="Bounded.")
    bytes: int = Field(description="Memory that it takes, by estimate.")


class ReferencesReply(BaseModel):
    error: Literal[False]
    value: list[Reference] = Field(description="Oldest first.")
    ms: float | None = None


def router(parts: Parts) -> APIRouter:
    routes = APIRouter(tags=["sessions"])
    caller = Annotated[Principal, Depends(scoped(parts.keys, parts.limits, "call"))]

    @routes.get(
        "/session/references",
        summary="What a session keeps",
        response_class=Response,
        responses=session_reply_described(ReferencesReply),
    )
    async def references(
        principal: caller,
        x_session_id: Annotated[str | None, Header(alias="X-Session-ID", description="The session.")] = None,
    ) -> Response:
        work = Work(frames.REFERENCES, b"")
        timeout_s = parts.settings.call_timeout_ms / 1000
        return await answers.answer(parts, principal, session_ids.named(None, x_session_id), work, timeout_s=timeout_s)

    return routes
