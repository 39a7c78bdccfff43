"""Who a request is from: `Authorization` (Bearer, Basic) or `X-Consumer-Custom-ID`; with both, `Authorization` counts."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping

import structlog
from starlette.requests import Request

from orchestrator.api.middleware import headers_of
from orchestrator.auth.keys import Credentials, Keys, Principal
from orchestrator.errors import Unauthorized

_BEARER = b"bearer"
_BASIC = b"basic"


def credentials(headers: Mapping[bytes, bytes]) -> Credentials:
    """Raises: Unauthorized: an `Authorization` of another scheme, or a Basic one that cannot be read."""
    authorization = headers.get(b"authorization")
    if authorization is None:
        token = headers.get(b"x-consumer-custom-id")
        return Credentials(token=None if token is None else token.decode("latin-1").strip())
    scheme, _, rest = authorization.strip().partition(b" ")
    if scheme.lower() == _BEARER:
        return Credentials(token=rest.strip().decode("latin-1"))
    if scheme.lower() == _BASIC:
        return Credentials(basic=_pair(rest.strip()))
    msg = "Authorization must be `Bearer <API id>`, or Basic with a key's id and secret"
    raise Unauthorized(msg)


async def principal_of(headers: Mapping[bytes, bytes], keys: Keys) -> Principal:
    """The holder of the key that a request shows. No store is asked for a token seen before. Raises: Unauthorized."""
    shown = credentials(headers)
    if shown.token is not None and (principal := keys.cached(shown.token)) is not None:
        return principal
    return await keys.authenticate(shown)


def scoped(keys: Keys, *scopes: str) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency for routes that any one of `scopes` opens. Raises: Unauthorized, Forbidden."""

    async def principal(request: Request) -> Principal:
        found = await principal_of(headers_of(request.scope), keys)
        structlog.contextvars.bind_contextvars(key=found.key_id)
        if found.scopes.isdisjoint(scopes):
            found.require(scopes[0])
        return found

    return principal


def _pair(encoded: bytes) -> tuple[str, str]:
    try:
        id, colon, secret = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError) as exc:
        msg = "the Basic credentials are not base64 of `key:secret`"
        raise Unauthorized(msg) from exc
    if not colon:
        msg = "the Basic credentials lack a colon between key and secret"
        raise Unauthorized(msg)
    return id, secret
