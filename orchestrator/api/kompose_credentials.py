"""Who a composition is from: `?jwt=` may be an API id or a session id, the only place where either goes.

A session id acts for the key that opened the session, with what that key may do by now.
"""

from collections import OrderedDict

from starlette.types import Scope

from orchestrator.api import parsing
from orchestrator.api.credentials import address_of, principal_of
from orchestrator.api.middleware import headers_of
from orchestrator.api.parts import Parts
from orchestrator.auth.keys import CACHED_TOKENS, Credentials, Principal
from orchestrator.auth.tokens import SessionClaims
from orchestrator.errors import InvalidRequest, SessionNotFound, Unauthorized
from orchestrator.records import Key

PARAMETER = "jwt"
_SHOWN = (b"authorization", b"x-consumer-custom-id")


class ComposeCredentials:
    """One per app."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._api_ids: OrderedDict[str, str] = OrderedDict()  # by key id; whether they are good is checked each time

    async def shown(self, scope: Scope) -> tuple[Principal, str | None]:
        """Whom the request is from, and the session that `?jwt=` names.

        Raises: Unauthorized, RateLimited, Forbidden: as `principal_of`. SessionNotFound, SessionExpired: a session id that
                was good once. InvalidRequest: the query, or two API ids of which each says something else.
        """
        query = parsing.query_of(scope, (PARAMETER,)) if scope["query_string"] else {}
        jwt = query.get(PARAMETER)
        header = not headers_of(scope).keys().isdisjoint(_SHOWN)
        if jwt is None:
            return await self._by_header(scope), None
        claims = None if self._parts.keys.cached(jwt) is not None else self._session(jwt)
        if claims is None:
            principal = await self._of_token(scope, jwt)
            if header and (await self._by_header(scope)).key_id != principal.key_id:
                msg = "the jwt and the headers name two keys: send one of them"
                raise InvalidRequest(msg, field=f"query.{PARAMETER}")
            return principal, None
        if header:
            return await self._by_header(scope), jwt
        return await self._opener(scope, jwt, claims), jwt

    async def _by_header(self, scope: Scope) -> Principal:
        return await principal_of(scope, self._parts.keys, self._parts.limits.failures)

    async def _of_token(self, scope: Scope, token: str) -> Principal:
        try:
            return self._parts.keys.cached(token) or await self._parts.keys.authenticate(Credentials(token=token))
        except Unauthorized:
            self._parts.limits.failures.count(address_of(scope))
            raise

    def _session(self, token: str) -> SessionClaims | None:
        try:
            return self._parts.tokens.read_session(token)
        except SessionNotFound:
            return None

    async def _opener(self, scope: Scope, sessionid: str, claims: SessionClaims) -> Principal:
        """The holder of the key that opened a session."""
        owner = Principal("", claims.owner, frozenset())
        live = self._parts.sessions.cached(sessionid, owner) or await self._parts.sessions.find(sessionid, owner)
        key_id = live.record.key_id
        api_id = self._api_ids.get(key_id)
        if api_id is not None and (principal := self._parts.keys.cached(api_id)) is not None:
            return principal
        key = await self._parts.store.get(Key, key_id)
        if key is None:
            msg = "the key that opened this session is gone"
            raise Unauthorized(msg)
        self._api_ids[key_id] = api_id = self._parts.tokens.api_id(key)
        if len(self._api_ids) > CACHED_TOKENS:
            self._api_ids.popitem(last=False)
        return await self._of_token(scope, api_id)
