"""API ids and session ids: JWTs that are made, read, and never taken for one another.

The kinds differ in signing key, header `typ`, claim `typ` and `aud` (RFC 8725). The algorithm is fixed here, never read
from a token. A token says who it is for; what its holder may do, the server's own record says.
"""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import jwt

from orchestrator.auth import signing_keys
from orchestrator.auth.signing_keys import SigningKey
from orchestrator.errors import SessionExpired, SessionNotFound, Unauthorized
from orchestrator.records import Key, Session
from orchestrator.telemetry import log

ALGORITHM = "HS256"
ISSUER = "kodou"
LEEWAY_S = 30
SET_BACK_S = 86_400  # a clock that is set back by less makes no key just issued one "from the future"
MAX_TOKEN_CHARS = 4096
NO_SUCH_SESSION = "no such session"
NOT_VALID = "the API id is not valid"

_YEAR_9999 = 253_370_764_800  # Unix time; what lies beyond is no time that Python can tell

Kind = Literal["api", "session"]
KINDS: tuple[Kind, ...] = ("api", "session")

# The last character of 32 bytes in base64 has two spare bits: without the closed set, four spellings of one token pass.
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")


@dataclass(frozen=True, slots=True)
class ApiClaims:
    key_id: str
    owner: str


@dataclass(frozen=True, slots=True)
class SessionClaims:
    session_id: str
    owner: str
    expires_at: datetime


class Tokens:
    """Makes and reads tokens. Any process on the data directory makes the same; keys added by another are seen at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys: dict[Kind, dict[str, bytes]] = {}
        self._seen = -1
        self._load()

    @classmethod
    def load(cls, data_dir: Path) -> "Tokens":
        """Read the signing keys in `data_dir/keys`, made on first use. Raises `UnsafeKey`."""
        return cls(data_dir / "keys")

    def rotate(self, kind: Kind) -> str:
        """Sign with a new key from now on; what older keys signed stays good until they are retired."""
        kid = signing_keys.add(self._directory, kind)
        self._load()
        return kid

    def retire(self, kind: Kind, kid: str) -> None:
        """End an older key, and all that it signed. Whoever has checked tokens and remembers them is to be woken by
        `Generation.bump` after this. Raises `NotFound`; `InvalidRequest`: it is the newest."""
        signing_keys.retire(self._directory, kind, kid)
        self._load()

    def signing_keys(self) -> list[SigningKey]:
        """Those of both kinds, oldest first."""
        return [key for kind in KINDS for key in signing_keys.found(self._directory, kind)]

    def api_id(self, key: Key) -> str:
        claims: dict[str, Any] = {"jti": key.id, "sub": key.owner, "iat": key.created_at}
        if key.expires_at is not None:
            claims["exp"] = key.expires_at
        return self._sign("api", claims)

    def session_id(self, session: Session) -> str:
        return self._sign(
            "session",
            {"jti": session.id, "sub": session.owner, "iat": session.created_at, "exp": session.expires_at},
        )

    def read_api(self, token: str) -> ApiClaims:
        """Raises `Unauthorized`: not ours, not an API id, or expired."""
        claims = self._verify("api", token, required=["jti", "sub", "iat"])
        if claims is None:
            raise Unauthorized(NOT_VALID)
        if "exp" in claims and _passed(claims["exp"]):
            msg = "the API id has expired"
            raise Unauthorized(msg)
        return ApiClaims(key_id=claims["jti"], owner=claims["sub"])

    def read_session(self, token: str, *, owner: str | None = None) -> SessionClaims:
        """With `owner`, another's session id is as unknown as any. Raises `SessionNotFound`, or `SessionExpired` when
        the signature is right and the time has passed."""
        claims = self._verify("session", token, required=["jti", "sub", "iat", "exp"])
        if claims is None or (owner is not None and claims["sub"] != owner):
            raise SessionNotFound(NO_SUCH_SESSION)
        if _passed(claims["exp"]):
            msg = "the session has reached its greatest age and has ended: set up a new one"
            raise SessionExpired(msg)
        return SessionClaims(claims["jti"], claims["sub"], datetime.fromtimestamp(claims["exp"], UTC))

    def _sign(self, kind: Kind, claims: dict[str, Any]) -> str:
        kid = next(reversed(self._present(kind)))
        return jwt.encode(
            {**claims, "typ": kind, "aud": _audience(kind), "iss": ISSUER},
            self._keys[kind][kid],
            algorithm=ALGORITHM,
            headers={"typ": _header_type(kind), "kid": kid},
        )

    def _verify(self, kind: Kind, token: str, *, required: list[str]) -> dict[str, Any] | None:
        # Size and alphabet first: nothing is decoded that this module could not have made.
        if len(token) > MAX_TOKEN_CHARS or not _TOKEN.fullmatch(token):
            return None
        try:
            header = jwt.get_unverified_header(token)
            key = self._present(kind).get(header.get("kid", ""))
            if key is None or header.get("typ") != _header_type(kind):
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=_audience(kind),
                issuer=ISSUER,
                leeway=SET_BACK_S,
                options={"require": [*required, "typ", "aud", "iss"], "verify_exp": False, "strict_aud": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None
        # `exp` is looked at here, since whether it has passed is not the same answer as whether the token is ours.
        expiry = claims.get("exp", 0)
        whole = type(expiry) is int and expiry < _YEAR_9999
        return claims if claims["typ"] == kind and whole else None

    def _present(self, kind: Kind) -> dict[str, bytes]:
        try:
            if self._directory.stat().st_mtime_ns != self._seen:
                self._load()
        except (OSError, signing_keys.UnsafeKey) as error:
            # Keep to the keys at hand rather than fail requests on a file that somebody is just putting in place.
            log.error("signing keys are not read anew", reason=str(error))
        return self._keys[kind]

    def _load(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        while (seen := self._directory.stat().st_mtime_ns) != self._seen:  # until nothing came while it was read
            self._keys = {kind: signing_keys.load(self._directory, kind) for kind in KINDS}
            self._seen = seen


def _audience(kind: Kind) -> str:
    return f"kodou-{kind}"


def _header_type(kind: Kind) -> str:
    return f"kodou-{kind}+jwt"


def _passed(expiry: int) -> bool:
    return expiry + LEEWAY_S <= time.time()
