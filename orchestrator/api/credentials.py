"""Who a request is from: `Authorization` (Bearer, Basic) or `X-Consumer-Custom-ID`; with both, `Authorization` counts."""

import base64
import binascii
from collections.abc import AsyncIterator, Callable, Mapping

import structlog
from starlette.requests import Request
from starlette.types import Scope

from orchestrator.api import parsing
from orchestrator.api.middleware import headers_of
from orchestrator.auth.keys import Credentials, Keys, Principal
from orchestrator.auth.limits import Gate, Limits
from orchestrator.errors import Forbidden, Unauthorized

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


async def principal_of(scope: Scope, keys: Keys, failures: Gate) -> Principal:
    """The holder of the key that a request shows. No store is asked for a token seen before.

    Raises: Unauthorized. RateLimited: one refusal too many for this address. Forbidden: see `_check_origin`.
    """
    headers = headers_of(scope)
    try:
        shown = credentials(headers)
        if shown.token is not None and (principal := keys.cached(shown.token)) is not None:
            return principal
        if shown.basic is not None:
            _check_origin(headers)
            # Unlike a forged token, a wrong secret is found wrong only by asking the store: not too often for one address.
            failures.check(address_of(scope))
        return await keys.authenticate(shown)
    except Unauthorized:
        failures.count(address_of(scope))
        raise


def scoped(keys: Keys, limits: Limits, *scopes: str) -> Callable[[Request], AsyncIterator[Principal]]:
    """A dependency for routes that any one of `scopes` opens; the request counts as one of its key's until it ends.

    Raises: Unauthorized, Forbidden, RateLimited, Unavailable; InvalidRequest: an unknown or repeated query parameter.
    """

    async def principal(request: Request) -> AsyncIterator[Principal]:
        found = await principal_of(request.scope, keys, limits.failures)
        structlog.contextvars.bind_contextvars(key=found.key_id)
        if found.scopes.isdisjoint(scopes):
            found.require(scopes[0])
        parsing.check_query(request.scope)
        with limits.requests.place(found.key_id):
            yield found

    return principal


def _check_origin(headers: Mapping[bytes, bytes]) -> None:
    """Browsers send Basic credentials that they remember with any page's requests: those of other origins are refused.

    Raises: Forbidden.
    """
    site = headers.get(b"sec-fetch-site")
    origin = headers.get(b"origin")
    if site is not None:
        foreign = site not in (b"same-origin", b"none")
    else:
        foreign = origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
    if foreign:
        msg = "HTTP Basic is not taken from pages of other origins: send the API id as a Bearer token"
        raise Forbidden(msg)


def address_of(scope: Scope) -> str:
    """The peer's: behind a proxy that is the proxy's, for headers that say otherwise can be anyone's."""
    client = scope.get("client")
    return client[0] if client else ""


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
