"""JSON bodies of the ordinary endpoints: read after the key was checked, parsed strictly, then given to a model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from orchestrator.api import parsing
from orchestrator.api.middleware import headers_of
from orchestrator.api.problems import InvalidMembers
from orchestrator.settings import Settings

M = TypeVar("M", bound=BaseModel)

# All that these endpoints take is small; a call's arguments have their own, larger limit.
MAX_BYTES = 1024 * 1024
_MOST_FAULTS = 20
_TEXTS: Mapping[str, str] = {
    "extra_forbidden": "unknown member",
    "missing": "is missing",
    "model_type": "must be an object",
    "dict_type": "must be an object",
}


async def read(request: Request, model: type[M], settings: Settings, *, optional: bool = False) -> M:
    """The request's body as a `model`. With `optional`, no body at all stands for an empty object.

    Raises: UnsupportedMediaType, MalformedRequest, InvalidRequest, PayloadTooLarge.
    """
    parsing.check_headers(headers_of(request.scope))
    body = await parsing.read_body(request.receive, limit_bytes=MAX_BYTES)
    members = {} if optional and not body else parsing.loads(body, max_depth=settings.max_depth)
    try:
        return model.model_validate(members)
    except ValidationError as exc:
        raise invalid_members(exc.errors(include_url=False, include_input=False)) from exc


def invalid_members(faults: Iterable[Mapping[str, Any]]) -> InvalidMembers:
    """Pydantic's errors as ours. What the client sent is never echoed: it need not be fit for a reply."""
    told = [(_path(fault["loc"]), _TEXTS.get(fault["type"], fault["msg"])) for fault in faults]
    return InvalidMembers(told[:_MOST_FAULTS])


def described(model: type[BaseModel], *, required: bool = True) -> dict[str, object]:
    """The body for a route's OpenAPI, as FastAPI would write it for a parameter of that model."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _path(location: Sequence[object]) -> str:
    """As everywhere: `lock.packages[0].name`."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{str(step)[:100]}" for step in location)
    return "".join(steps).removeprefix(".") or "body"
