"""Tokens that somebody made, changed, kept too long or showed at the wrong door."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.auth import signing_keys
from orchestrator.auth.tokens import ISSUER, Tokens
from orchestrator.errors import SessionExpired, SessionNotFound, Unauthorized
from orchestrator.records import Key, Resources, Session, SessionState

NOW = datetime.now(UTC).replace(microsecond=0)
KEY = Key("a" * 32, "alice", "alice", frozenset({"call"}), "0" * 64, NOW)
SESSION = Session(
    id="c" * 32,
    owner="alice",
    key_id="a" * 32,
    environment_id="e",
    resources=Resources(memory_mb=128, cpus=1.0, pids=64, disk_mb=16),
    network="none",
    env={},
    ttl_s=60,
    state=SessionState.READY,
    reason="",
    since=NOW,
    created_at=NOW,
    last_used_at=NOW,
    expires_at=NOW + timedelta(hours=1),
)
YEAR_2100 = 4_102_444_800
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens.load(tmp_path)


def part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forge(tmp_path: Path, *, header: dict[str, Any] | None = None, kind: str = "api", **changes: Any) -> str:
    """A token with a right signature over what the server would never sign. A change to None leaves a claim out."""
    kid, secret = list(signing_keys.load(tmp_path / "keys", kind).items())[-1]
    claims: dict[str, Any] = {
        "jti": KEY.id,
        "sub": KEY.owner,
        "iat": int(NOW.timestamp()),
        "typ": kind,
        "aud": f"kodou-{kind}",
        "iss": ISSUER,
        **changes,
    }
    head = {"alg": "HS256", "typ": f"kodou-{kind}+jwt", "kid": kid, **(header or {})}
    signed = f"{part(head)}.{part({name: value for name, value in claims.items() if value is not None})}"
    signature = hmac.digest(secret, signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def test_the_forge_makes_what_the_server_takes(tokens: Tokens, tmp_path: Path) -> None:
    assert tokens.read_api(forge(tmp_path)).owner == "alice"  # else the refusals below would prove nothing


def test_each_kind_is_read_as_what_it_is(tokens: Tokens) -> None:
    assert tokens.read_api(tokens.api_id(KEY)).key_id == KEY.id
    claims = tokens.read_session(tokens.session_id(SESSION))
    assert (claims.session_id, claims.owner, claims.expires_at) == (SESSION.id, "alice", SESSION.expires_at)


def test_a_session_id_is_no_api_id(tokens: Tokens) -> None:
    with pytest.raises(Unauthorized):
        tokens.read_api(tokens.session_id(SESSION))


def test_an_api_id_is_no_session_id(tokens: Tokens) -> None:
    with pytest.raises(SessionNotFound):
        tokens.read_session(tokens.api_id(KEY))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS384", "HS512", "RS256", "ES256", "", 7, None])
def test_the_token_does_not_choose_the_algorithm(tokens: Tokens, tmp_path: Path, algorithm: Any) -> None:
    with pytest.raises(Unauthorized):
        tokens.read_api(forge(tmp_path, header={"alg": algorithm}))


def test_a_token_without_a_signature_is_refused(tokens: Tokens) -> None:
    head, claims, _ = tokens.api_id(KEY).split(".")
    none = part({"alg": "none", "typ": "kodou-api+jwt", "kid": "00000001"})
    for token in (f"{head}.{claims}.", f"{none}.{claims}.", f"{head}.{claims}"):
        with pytest.raises(Unauthorized):
            tokens.read_api(token)


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "kodou-session+jwt"},
        {"typ": "JWT"},
        {"typ": None},
        {"kid": None},
        {"kid": "00000002"},
        {"kid": ["00000001"]},
        {"kid": "../../../dev/null"},
        {"crit": ["exp"], "exp": 1},
    ],
    ids=str,
)
def test_a_header_that_is_not_ours_is_refused(tokens: Tokens, tmp_path: Path, header: dict[str, Any]) -> None:
    with pytest.raises(Unauthorized):
        tokens.read_api(forge(tmp_path, header=header))


@pytest.mark.parametrize(
    "changes",
    [
        {"typ": "session"},
        {"typ": None},
        {"aud": "kodou-session"},
        {"aud": ["kodou-api", "kodou-session"]},
        {"aud": None},
        {"iss": "mallory"},
        {"iss": None},
        {"jti": None},
        {"jti": 7},
        {"sub": None},
        {"sub": 7},
        {"iat": None},
        {"iat": "yesterday"},
        {"nbf": YEAR_2100},
        {"iat": YEAR_2100},
    ],
    ids=str,
)
def test_claims_that_are_not_ours_are_refused_whoever_signed(
    tokens: Tokens, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(Unauthorized):
        tokens.read_api(forge(tmp_path, **changes))


def test_a_key_in_the_header_is_not_used(tokens: Tokens) -> None:
    mine = bytes(range(32))
    jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(mine).decode()}
    for header in ({"jwk": jwk}, {"jku": "https://mallory.example/keys"}, {"x5u": "https://mallory.example"}):
        token = jwt.encode(
            {"jti": KEY.id, "sub": "alice", "iat": NOW, "typ": "api", "aud": "kodou-api", "iss": ISSUER},
            mine,
            headers={"typ": "kodou-api+jwt", "kid": "00000001", **header},
        )
        with pytest.raises(Unauthorized):
            tokens.read_api(token)


def test_the_key_of_one_kind_does_not_sign_for_the_other(tokens: Tokens, tmp_path: Path) -> None:
    claims = {"jti": KEY.id, "sub": "alice", "iat": NOW, "typ": "api", "aud": "kodou-api", "iss": ISSUER}
    kid, secret = next(iter(signing_keys.load(tmp_path / "keys", "session").items()))
    token = jwt.encode(claims, secret, headers={"typ": "kodou-api+jwt", "kid": kid})
    with pytest.raises(Unauthorized):
        tokens.read_api(token)


def test_another_server_s_token_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    other = Tokens.load(tmp_path / "other")
    with pytest.raises(Unauthorized):
        tokens.read_api(other.api_id(KEY))


def test_a_token_has_one_spelling(tokens: Tokens) -> None:
    token = tokens.api_id(KEY)
    last = BASE64.index(token[-1])
    spare = [token[:-1] + BASE64[last ^ bits] for bits in (1, 2, 3)]  # the same bytes, read leniently
    for other in (
        *spare,
        token + "=",
        token + "\n",
        " " + token,
        token + "!",
        token.replace(".", ".\n", 1),
        token + ".x",
    ):
        with pytest.raises(Unauthorized):
            tokens.read_api(other)


@given(st.data())
def test_no_changed_character_passes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    tokens = _shared(tmp_path_factory)
    token = tokens.session_id(SESSION)
    place = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.sampled_from([c for c in BASE64 + ".=" if c != token[place]]))
    with pytest.raises(SessionNotFound):
        tokens.read_session(token[:place] + character + token[place + 1 :])


@given(st.text(max_size=200) | st.from_regex(r"[\w-]{1,60}\.[\w-]{1,60}\.[\w-]{43}", fullmatch=True))
def test_junk_is_refused_and_nothing_else_happens(tmp_path_factory: pytest.TempPathFactory, junk: str) -> None:
    tokens = _shared(tmp_path_factory)
    with pytest.raises(Unauthorized):
        tokens.read_api(junk)
    with pytest.raises(SessionNotFound):
        tokens.read_session(junk)


def test_a_deep_or_huge_token_is_refused_before_it_is_decoded(
    tokens: Tokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 3000).rstrip(b"=").decode()
    with pytest.raises(Unauthorized):
        tokens.read_api(f"{deep}.e30.{'A' * 43}"[:4096])
    huge = forge(tmp_path, padding="x" * 4096)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(jwt, "get_unverified_header", never)
    with pytest.raises(Unauthorized):
        tokens.read_api(huge)


def test_an_expired_session_id_says_so_to_its_owner_only(tokens: Tokens) -> None:
    token = tokens.session_id(replace(SESSION, expires_at=NOW - timedelta(seconds=31)))
    with pytest.raises(SessionExpired):
        tokens.read_session(token, owner="alice")
    with pytest.raises(SessionNotFound):
        tokens.read_session(token, owner="bob")


def test_a_session_id_without_an_expiry_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(SessionNotFound):
        tokens.read_session(forge(tmp_path, kind="session"))
    assert tokens.read_session(forge(tmp_path, kind="session", exp=int(NOW.timestamp()) + 3600)).owner == "alice"


@pytest.mark.parametrize("expiry", ["soon", True, [1], 1e300, -1, float("inf")])
def test_an_expiry_that_is_none_is_refused(tokens: Tokens, tmp_path: Path, expiry: Any) -> None:
    with pytest.raises((SessionNotFound, SessionExpired)):
        tokens.read_session(forge(tmp_path, kind="session", exp=expiry))
    with pytest.raises(Unauthorized):
        tokens.read_api(forge(tmp_path, exp=expiry))


def test_clocks_may_differ_by_half_a_minute(tokens: Tokens) -> None:
    now = datetime.now(UTC)
    tokens.read_session(tokens.session_id(replace(SESSION, expires_at=now - timedelta(seconds=20))))
    tokens.read_api(tokens.api_id(replace(KEY, created_at=now + timedelta(seconds=20))))


def test_an_expired_api_id_is_refused(tokens: Tokens) -> None:
    with pytest.raises(Unauthorized, match="expired"):
        tokens.read_api(tokens.api_id(replace(KEY, expires_at=NOW - timedelta(seconds=31))))


@pytest.mark.parametrize("kind", ["api", "session"])
def test_after_a_rotation_old_tokens_are_read_and_the_new_key_signs(tmp_path: Path, kind: Any) -> None:
    server, command = Tokens.load(tmp_path), Tokens.load(tmp_path)
    make: Callable[[Tokens], str] = (lambda t: t.api_id(KEY)) if kind == "api" else lambda t: t.session_id(SESSION)
    read: Callable[[Tokens, str], object] = (
        (lambda t, token: t.read_api(token)) if kind == "api" else lambda t, token: t.read_session(token)
    )
    old = make(server)
    kid = command.rotate(kind)
    new = make(server)  # another process has rotated: seen without a restart
    assert jwt.get_unverified_header(new)["kid"] == kid != jwt.get_unverified_header(old)["kid"]
    for tokens in (server, command, Tokens.load(tmp_path)):
        assert read(tokens, old) == read(tokens, new)


def test_a_key_that_is_removed_ends_its_tokens(tmp_path: Path) -> None:
    tokens = Tokens.load(tmp_path)
    old = tokens.api_id(KEY)
    tokens.rotate("api")
    (tmp_path / "keys" / "api-00000001.key").unlink()
    with pytest.raises(Unauthorized):
        tokens.read_api(old)
    tokens.read_api(tokens.api_id(KEY))


def test_an_unsafe_key_stops_the_start_but_not_a_running_server(tmp_path: Path) -> None:
    tokens = Tokens.load(tmp_path)
    made = tokens.api_id(KEY)
    unsafe = tmp_path / "keys" / "api-00000009.key"
    unsafe.write_bytes(bytes(32))
    unsafe.chmod(0o600)
    assert tokens.read_api(made).owner == "alice"
    with pytest.raises(signing_keys.UnsafeKey):
        Tokens.load(tmp_path)


def test_the_directory_of_keys_is_the_server_s_own(tmp_path: Path) -> None:
    Tokens.load(tmp_path)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


_made: list[Tokens] = []


def _shared(factory: pytest.TempPathFactory) -> Tokens:
    if not _made:
        _made.append(Tokens.load(factory.mktemp("tokens")))
    return _made[0]
