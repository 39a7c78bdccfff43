"""/docs: Swagger UI, from files on this server alone; /openapi.json; and what stands at /."""

from functools import cache
from importlib.resources import files

from fastapi import APIRouter, FastAPI
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from orchestrator.errors import NotFound

_ASSETS = "fastapi_offline"  # Swagger UI 5, which reads OpenAPI 3.1, as files of a package
_TYPES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "init.js": "text/javascript; charset=utf-8",
}
# Swagger UI sets style attributes and has its icons in data: URLs; scripts and requests go to this server only.
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>kodou API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script src="docs/assets/init.js"></script>
</body>
</html>
"""
# `validatorUrl: null`: the default asks a public server to read the document.
_INIT = """window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  deepLinking: true,
  validatorUrl: null,
});
"""


def router(app: FastAPI) -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def root() -> Response:
        return RedirectResponse("docs")

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"})

    @routes.get("/docs/assets/{name}")
    async def asset(name: str) -> Response:
        if name not in _TYPES:
            msg = "no such file"
            raise NotFound(msg)
        content = _INIT.encode() if name == "init.js" else _bundled(name)
        return Response(content, headers={"Content-Type": _TYPES[name], "Cache-Control": "public, max-age=3600"})

    @routes.get("/openapi.json")
    async def document() -> Response:
        return JSONResponse(app.openapi())

    return routes


@cache
def _bundled(name: str) -> bytes:
    return (files(_ASSETS) / "static" / name).read_bytes()
