"""HEAD, wherever there is GET: the same reply, of which the connection leaves out the body (`exchange.py`)."""

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """Stands inside `Edge`, which records the method that was asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send)
        finally:
            scope.update(asked, method="HEAD")  # with the route that was found
