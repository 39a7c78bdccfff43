"""The API's own description, for routes that FastAPI does not read by itself too: raw bodies, the call endpoint."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from orchestrator.api import bodies, calls, schemas
from orchestrator.api.problems import KINDS, MEDIA_TYPE

_BODIES = (schemas.SetupBody, schemas.CloseBody, schemas.CallRequest, schemas.CallReply, schemas.Problem)
_NEVER_SENT = {"HTTPValidationError", "ValidationError"}  # FastAPI's own; ours is `Problem`
_METHODS = frozenset({"get", "post", "put", "patch", "delete"})

# For `openapi_extra` of routes that ask for no key.
PUBLIC: dict[str, Any] = {"security": []}

_SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "An API id."},
    "basic": {"type": "http", "scheme": "basic", "description": "A key's id and its secret."},
    "consumer": {"type": "apiKey", "in": "header", "name": "X-Consumer-Custom-ID", "description": "An API id."},
}
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


def problems_described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that may answer with these."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        titles = dict.fromkeys(kind.title for kind in KINDS.values() if kind.status == status)
        described[status] = {"description": "; ".join(titles), "content": _PROBLEM}
    return described


def describe(app: FastAPI) -> dict[str, Any]:
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
    )
    components = document.setdefault("components", {})
    _, models = models_json_schema(
        [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
    )
    schemas_ = {**components.get("schemas", {}), **models["$defs"]}
    components["schemas"] = {name: schemas_[name] for name in sorted(schemas_.keys() - _NEVER_SENT)}
    components["securitySchemes"] = _SECURITY
    document["security"] = [{name: []} for name in _SECURITY]
    document["paths"][calls.PATH] = {"post": _call()}
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
            'profile=nonfinite`, NaN and infinities come back as the strings "NaN", "Infinity" and "-Infinity", not as null.'
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
        **bodies.described(schemas.CallRequest),
        "responses": {
            "200": {
                "description": "What the call came to.",
                "headers": {
                    "Kodou-Restarted": {
                        "description": "`true` where the session got a fresh interpreter.",
                        "schema": {"type": "string"},
                    }
                },
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CallReply"}}},
            },
            **{
                str(status): described
                for status, described in problems_described(
                    400, 401, 403, 404, 406, 408, 410, 413, 415, 422, 429, 503
                ).items()
            },
        },
    }


def _finish(operation: dict[str, Any]) -> None:
    """Every operation may answer 500; FastAPI's own 422 has a shape that this server does not send."""
    responses = operation["responses"]
    responses.update({"500": problems_described(500)[500]})
    if "422" in responses:
        responses["422"] = problems_described(422)[422]
