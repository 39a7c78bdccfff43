"""Keys: who may do what, until when. A request shows a key's API id (a JWT), or its id and secret over HTTP Basic."""

import asyncio
import hashlib
import hmac
import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.auth.generation import Generation
from orchestrator.auth.tokens import NOT_VALID, Tokens
from orchestrator.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from orchestrator.records import Key
from orchestrator.store.base import Store

SCOPES = frozenset({"setup", "call", "egress", "admin"})
DEFAULT_SCOPES = frozenset({"setup", "call"})
CACHED_TOKENS = 10_000

_NAME = re.compile(r"[A-Za-z0-9_.@+-]{1,64}")
_NO_SECRET = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request shows: `token` from Bearer or X-Consumer-Custom-ID, `basic` (key id, secret) from HTTP Basic."""

    token: str | None = None
    basic: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request is from."""

    key_id: str
    owner: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raises `Forbidden` without it."""
        if scope not in self.scopes:
            msg = f"this key lacks the scope {scope!r}"
            raise Forbidden(msg)


@dataclass(frozen=True, slots=True)
class NewKey:
    """The one time that the secret is seen."""

    key: Key
    secret: str
    api_id: str


class Keys:
    """Creates, lists, revokes and checks keys. Revoking works at once in every process on the data directory."""

    def __init__(self, store: Store, tokens: Tokens, data_dir: Path) -> None:
        self._store = store
        self._tokens = tokens
        self._generation = Generation(data_dir)
        self._seen = self._generation.current()
        # Token -> principal, Unix time of expiry.
        self._cache: OrderedDict[str, tuple[Principal, float]] = OrderedDict()

    async def create(
        self,
        name: str,
        *,
        scopes: Collection[str] = DEFAULT_SCOPES,
        expires_in: timedelta | None = None,
        owner: str | None = None,
    ) -> NewKey:
        """Make a key for `owner` (default: one of its own name). Raises `InvalidRequest`."""
        owner = name if owner is None else owner
        for field, value in (("name", name), ("owner", owner)):
            if not _NAME.fullmatch(value):
                msg = f"{field} must be 1 to 64 of the characters A-Z a-z 0-9 _ . @ + -"
                raise InvalidRequest(msg, field=field)
        unknown = set(scopes) - SCOPES
        if unknown or not scopes:
            msg = f"scopes must be some of {', '.join(sorted(SCOPES))}"
            raise InvalidRequest(msg, field="scopes")
        now = datetime.now(UTC)
        try:
            expires_at = None if expires_in is None else now + expires_in
        except OverflowError:
            expires_at = now
        if expires_at is not None and expires_at <= now:
            msg = "expiry must lie in the future, and before the year 10000"
            raise InvalidRequest(msg, field="expires_in")
        secret = secrets.token_urlsafe(32)
        key = Key(
            id=secrets.token_hex(16),
            name=name,
            owner=owner,
            scopes=frozenset(scopes),
            secret_sha256=_digest(secret),
            created_at=now,
            expires_at=expires_at,
        )
        await self._store.add(key)
        return NewKey(key, secret, self._tokens.api_id(key))

    async def list(self) -> list[Key]:
        """All keys, oldest first, revoked and expired ones too."""
        return await self._store.list(Key)

    async def revoke(self, id: str) -> Key:
        """End a key now; again is success. Raises `NotFound`."""
        while True:
            key = await self._store.get(Key, id)
            if key is None:
                msg = f"no key has the id {id!r}"
                raise NotFound(msg)
            revoked = replace(key, revoked_at=key.revoked_at or datetime.now(UTC))
            if await self._store.replace(revoked, expected=key.revision):
                await asyncio.to_thread(self._generation.bump)
                return replace(revoked, revision=key.revision + 1)

    def cached(self, token: str) -> Principal | None:
        """The holder of a token that was found good before and still is; None: ask `authenticate`."""
        if self._generation.current() != self._seen:
            return None
        entry = self._cache.get(token)
        if entry is None or entry[1] <= time.time():
            return None
        self._cache.move_to_end(token)
        return entry[0]

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Raises `Unauthorized`; the text tells why only to whoever holds a rightly signed token or the secret."""
        seen = self._generation.current()
        if seen != self._seen:
            self._cache.clear()
            self._seen = seen
        if credentials.token is not None:
            key = await self._of_token(credentials.token)
        elif credentials.basic is not None:
            key = await self._of_secret(*credentials.basic)
        else:
            msg = "send an API id, as in `Authorization: Bearer <API id>`"
            raise Unauthorized(msg)
        _check_current(key)
        principal = Principal(key.id, key.owner, key.scopes)
        # A revocation while the store was read has moved the generation on: what was read then must not be kept.
        if credentials.token is not None and seen == self._seen:
            self._keep(credentials.token, principal, key.expires_at)
        return principal

    async def _of_token(self, token: str) -> Key:
        claims = self._tokens.read_api(token)
        key = await self._store.get(Key, claims.key_id)
        if key is None or key.owner != claims.owner:
            raise Unauthorized(NOT_VALID)
        return key

    async def _of_secret(self, id: str, secret: str) -> Key:
        key = await self._store.get(Key, id)
        # An unknown id takes the same comparison, so that time does not tell ids apart.
        right = hmac.compare_digest(_digest(secret), _NO_SECRET if key is None else key.secret_sha256)
        if key is None or not right:
            msg = "the key id or the secret is not valid"
            raise Unauthorized(msg)
        return key

    def _keep(self, token: str, principal: Principal, expires_at: datetime | None) -> None:
        self._cache[token] = (principal, math.inf if expires_at is None else expires_at.timestamp())
        self._cache.move_to_end(token)
        if len(self._cache) > CACHED_TOKENS:
            self._cache.popitem(last=False)


def _check_current(key: Key) -> None:
    if key.revoked_at is not None:
        msg = "this key was revoked"
        raise Unauthorized(msg)
    if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        msg = "this key has expired"
        raise Unauthorized(msg)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
