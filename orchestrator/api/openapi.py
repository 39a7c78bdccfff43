"""The API's own description, for routes that FastAPI does not read by itself too: raw bodies, the call endpoint.

`tests/fuzz` holds it against the server: what it allows is accepted, what it forbids refused, and replies are as it says.
"""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from orchestrator.api import accepting, bounds, calls, kompose, kompose_schemas, receipts, schemas
from orchestrator.api.describe_schemas import DescribeBody
from orchestrator.api.problems import KINDS, MEDIA_TYPE
from orchestrator.environments.python import PythonBuilder
from orchestrator.settings import Settings

_BODIES = (
    schemas.SetupBody,
    schemas.CloseBody,
    schemas.CallRequest,
    schemas.CallReply,
    schemas.Problem,
    DescribeBody,
    kompose_schemas.KomposeRequest,
)
_NEVER_SENT = {"HTTPValidationError", "ValidationError"}  # FastAPI's own; ours is `Problem`
_METHODS = frozenset({"get", "post", "put", "patch", "delete"})
# Of every operation: a head that is no HTTP, for another host or too large; a server that is busy, or wrong.
_ANY_REFUSALS = (400, 421, 431, 500, 503)
# Of those that ask for a key: none, one that may not, an unknown query parameter, too many requests.
_KEYED_REFUSALS = (401, 403, 422, 429)
# Of those that take a body: did not arrive in time, too large, of another type.
_BODY_REFUSALS = (408, 413, 415)

# For `openapi_extra` of routes that ask for no key.
PUBLIC: dict[str, Any] = {"security": []}

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "An API id."},
    "basic": {"type": "http", "scheme": "basic", "description": "A key's id and its secret."},
    "consumer": {"type": "apiKey", "in": "header", "name": "X-Consumer-Custom-ID", "description": "An API id."},
}
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "The client's own, if it sent a sane one; the server's log has it too.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    },
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"required": True, "schema": {"type": "string"}},
    "Preference-Applied": {"schema": {"type": "string", "enum": ["respond-async"]}},
    "Location": {"description": "Where to poll.", "required": True, "schema": {"type": "string"}},
    "Kodou-Restarted": {
        "description": "`true` where the session got a fresh interpreter.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Kodou-Type": {
        "description": "Of a value in a form of its own: the Python type's qualified name.",
        "schema": {"type": "string", "examples": ["numpy.ndarray"]},
    },
    **receipts.DESCRIBED,
}
_SESSION_HEADERS = ("Kodou-Restarted", "Kodou-Cold", "Server-Timing")
_CALL_HEADERS = (*_SESSION_HEADERS, "Kodou-Type")
_TAGS = [
    {
        "name": "environments",
        "description": "An environment is a language, a version and dependencies; it is built once.",
    },
    {"name": "calls", "description": "What a session can be asked to do."},
    {"name": "sessions", "description": "A session is a sandbox of its own on an environment."},
    {"name": "health", "description": "For those who watch the server."},
]
_TOLD = (accepting.JSON, accepting.MULTIPART)
_CALL = {"schema": {"$ref": "#/components/schemas/CallRequest"}}
_CALL_WITH_FILES: dict[str, Any] = {
    "schema": {
        "type": "object",
        "description": (
            'The call\'s JSON, and files that it names: `{"$file": "<part>"}` stands for the bytes of that part, '
            '`{"$array": "<part>", "dtype", "shape"}` for an array.'
        ),
        "properties": {"call": {"$ref": "#/components/schemas/CallRequest"}},
        "required": ["call"],
        "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
        "propertyNames": {"minLength": 1, "maxLength": 200},
    },
    "encoding": {"call": {"contentType": accepting.JSON}},
}
_CALL_BODIES: dict[str, Any] = {
    accepting.JSON: _CALL,
    accepting.MULTIPART: _CALL_WITH_FILES,
    accepting.PROTOBUF: {"schema": {"type": "string", "format": "binary", "description": "A `kodou.v1.CallRequest`."}},
}
_TYPED_REPLY: dict[str, Any] = {
    "type": "object",
    "description": "The reply as JSON, and the files that its value names.",
    "properties": {"reply": {"$ref": "#/components/schemas/CallReply"}},
    "required": ["reply"],
    "additionalProperties": {"type": "string", "contentMediaType": "application/octet-stream"},
}
_HEADERS_OF = {
    "202": ("Location", "Retry-After", "Preference-Applied"),
    "401": ("WWW-Authenticate",),
    "429": ("Retry-After",),
}
_SESSION_HEADER = {"X-Session-ID": "$response.body#/sessionid"}

# What a setup's reply is good for.
SETUP_LINKS: dict[str, Any] = {
    "call": {
        "operationId": "call",
        "parameters": {"language": "$request.path.language", **_SESSION_HEADER},
        "description": "Call functions in the session.",
    },
    "close": {"operationId": "close", "parameters": _SESSION_HEADER, "description": "End the session."},
    "environment": {
        "operationId": "environment",
        "parameters": {"language": "$request.path.language", "id": "$response.body#/environment/id"},
        "description": "What is installed in it.",
    },
}

# While it is built.
POLL_LINKS: dict[str, Any] = {
    "poll": {
        "operationId": "poll",
        "parameters": {"language": "$request.path.language", "operation": "$response.body#/operation"},
        "description": "Ask again.",
    }
}


def problems_described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that may answer with these."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        titles = dict.fromkeys(kind.title for kind in KINDS.values() if kind.status == status)
        described[status] = {"description": "; ".join(titles), "content": _PROBLEM}
    return described


def session_reply_described(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route whose reply is that of a session's runner."""
    return {200: {"model": model, "headers": _headers(_SESSION_HEADERS)}, **problems_described(404, 410)}


def _headers(names: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def describe(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The OpenAPI document, made once."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=app.openapi_version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        license_info=app.license_info,
        tags=_TAGS,
    )
    components = document.setdefault("components", {})
    _, models = models_json_schema(
        [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
    )
    schemas_ = {**components.get("schemas", {}), **models["$defs"]}
    bounds.add(schemas_, settings)
    components["schemas"] = {name: schemas_[name] for name in sorted(schemas_.keys() - _NEVER_SENT)}
    components["securitySchemes"] = _SECURITY
    components["headers"] = _HEADERS
    document["security"] = [{name: []} for name in _SECURITY]
    refusals = _call_refusals()
    composed = kompose_schemas.operation(call_replies_described(), refusals, _headers(_CALL_HEADERS))
    document["paths"] |= {calls.PATH: {"post": _call()}, kompose.PATH: {"post": composed}}
    for path in document["paths"].values():
        for method, operation in path.items():
            if method in _METHODS:
                _finish(operation)
    app.openapi_schema = document
    return document


def _call() -> dict[str, Any]:
    return {
        "tags": ["calls"],
        "summary": "Call a function by name",
        "description": (
            "What the function raised is a reply with `error: true`, status 200. With `Accept: application/json; "
            'profile=nonfinite`, NaN and infinities come back as the strings "NaN", "Infinity" and "-Infinity", not as null. '
            "Another `Accept` asks for the bare value in that form, where it has it. A call that failed is told in JSON."
        ),
        "operationId": "call",
        "parameters": [
            {"name": "language", "in": "path", "required": True, "schema": {"type": "string"}},
            {
                "name": "X-Session-ID",
                "in": "header",
                "required": False,
                "description": "The session, where the body names none.",
                "schema": {"type": "string"},
            },
        ],
        "requestBody": {"required": True, "content": _CALL_BODIES},
        "responses": {
            "200": {
                "description": "What the call came to.",
                "headers": _headers(_CALL_HEADERS),
                "content": call_replies_described(),
            },
            **{str(status): described for status, described in _call_refusals().items()},
        },
    }


def _call_refusals() -> dict[int | str, dict[str, Any]]:
    """Those of a value without the form asked for, and of the runner, have receipts: the session was asked."""
    refusals = problems_described(404, 406, 410, 422)
    for status in (406, 422):
        refusals[status]["headers"] = _headers(_SESSION_HEADERS)
    return refusals


def call_replies_described() -> dict[str, Any]:
    """`content` of the 200 of whatever makes calls."""
    return {
        accepting.JSON: {"schema": {"$ref": "#/components/schemas/CallReply"}},
        accepting.MULTIPART: {"schema": _TYPED_REPLY},
        **{media_type: {"schema": {}} for media_type in accepting.MEDIA_TYPES.values() if media_type not in _TOLD},
        accepting.PROTOBUF: {
            "schema": {"type": "string", "format": "binary", "description": "A `kodou.v1.CallReply`."}
        },
        accepting.EVENT_STREAM: {
            "schema": {
                "type": "string",
                "description": "Events `output` and `item`, then one `result`, its data as for JSON, or one `error`.",
            }
        },
    }


def _finish(operation: dict[str, Any]) -> None:
    """What holds for every operation; FastAPI's own 422 has a shape that this server does not send."""
    responses = operation["responses"]
    refusals = (
        *_ANY_REFUSALS,
        *(_KEYED_REFUSALS if "security" not in operation else ()),
        *(_BODY_REFUSALS if "requestBody" in operation else ()),
    )
    for status, described in problems_described(*refusals).items():
        own = responses.get(str(status), {})
        responses[str(status)] = {**described, "headers": own.get("headers", {})}
    for status, response in responses.items():
        names = ("X-Request-ID", *_HEADERS_OF.get(status, ()))
        responses[status] = {**response, "headers": {**_headers(names), **response.get("headers", {})}}
    for parameter in operation.get("parameters", ()):
        if (parameter["in"], parameter["name"]) == ("path", "language"):
            parameter["schema"] = {"type": "string", "enum": [PythonBuilder.language]}
