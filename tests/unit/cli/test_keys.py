"""`kodou keys`, on a store of its own."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.auth.generation import Generation
from orchestrator.auth.tokens import Tokens
from orchestrator.errors import Unauthorized

Kodou = Callable[..., Any]


def test_create_prints_the_api_id_on_the_last_line(kodou: Kodou, own_data_dir: Path) -> None:
    done = kodou("keys", "create", "me")
    assert done.code == 0
    claims = Tokens.load(own_data_dir).read_api(done.last_line)
    assert claims.owner == "me"
    assert claims.key_id in done.out


def test_create_prints_one_line_of_json(kodou: Kodou, own_data_dir: Path) -> None:
    done = kodou(
        "keys", "create", "ci", "--scopes", "setup,call,admin", "--expires", "30d", "--owner", "team", "--json"
    )
    (line,) = done.out.splitlines()
    made = json.loads(line)
    assert set(made) == {"id", "name", "api_id", "key", "secret", "scopes", "expires"}
    assert (made["name"], made["key"], made["scopes"]) == ("ci", made["id"], ["admin", "call", "setup"])
    assert Tokens.load(own_data_dir).read_api(made["api_id"]).owner == "team"
    lasts = datetime.fromisoformat(made["expires"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < lasts <= timedelta(days=30)


def test_a_key_may_set_up_and_call_and_does_not_expire_unless_told(kodou: Kodou) -> None:
    made = json.loads(kodou("keys", "create", "me", "--json").out)
    assert (made["scopes"], made["expires"]) == (["call", "setup"], None)


def test_list_shows_keys_and_no_secrets(kodou: Kodou) -> None:
    made = json.loads(kodou("keys", "create", "me", "--json").out)
    (listed,) = json.loads(kodou("keys", "list", "--json").out)
    assert (listed["id"], listed["name"], listed["state"], listed["revoked"]) == (made["id"], "me", "valid", None)
    table = kodou("keys", "list").out
    assert made["id"] in table
    assert made["secret"] not in table + json.dumps(listed)


def test_revoke_ends_a_key_and_wakes_the_server(kodou: Kodou, own_data_dir: Path) -> None:
    made = json.loads(kodou("keys", "create", "me", "--json").out)
    before = Generation(own_data_dir).current()
    assert kodou("keys", "revoke", made["id"]).code == 0
    assert Generation(own_data_dir).current() != before
    assert json.loads(kodou("keys", "list", "--json").out)[0]["state"] == "revoked"
    assert kodou("keys", "revoke", made["id"]).code == 0


def test_revoke_of_an_unknown_key_fails_in_one_line(kodou: Kodou) -> None:
    done = kodou("keys", "revoke", "nope")
    assert (done.code, done.out) == (1, "")
    assert done.err == "kodou: no key has the id 'nope'\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--expires", "soon"), "no duration"),
        (("--scopes", ","), "name at least one"),
    ],
)
def test_a_wrong_option_is_a_usage_error(kodou: Kodou, arguments: tuple[str, ...], told: str) -> None:
    done = kodou("keys", "create", "me", *arguments)
    assert done.code == 2
    assert told in done.err


def test_an_unknown_scope_is_refused(kodou: Kodou) -> None:
    done = kodou("keys", "create", "me", "--scopes", "everything")
    assert done.code == 1
    assert "admin, call, egress, setup" in done.err


# --- signing keys ---


def test_a_rotation_makes_the_key_that_signs_and_keeps_the_old_one(kodou: Kodou, own_data_dir: Path) -> None:
    old = json.loads(kodou("keys", "create", "me", "--json").out)
    made = json.loads(kodou("keys", "rotate", "--kind", "api", "--json").out)
    assert [(key["name"], key["signs"]) for key in made] == [("api-00000002", True)]
    listed = json.loads(kodou("keys", "signing", "--json").out)
    assert [(key["name"], key["signs"]) for key in listed] == [
        ("api-00000001", False),
        ("api-00000002", True),
        ("session-00000001", True),
    ]
    assert Tokens.load(own_data_dir).read_api(old["api_id"]).owner == "me"
    assert {file.stat().st_mode & 0o777 for file in (own_data_dir / "keys").iterdir()} == {0o600}
    assert "api-00000002" in kodou("keys", "signing").out


def test_both_kinds_rotate_unless_told_which(kodou: Kodou) -> None:
    assert len(json.loads(kodou("keys", "rotate", "--json").out)) == 2


def test_what_a_retired_key_signed_is_refused_and_the_server_is_woken(kodou: Kodou, own_data_dir: Path) -> None:
    old = json.loads(kodou("keys", "create", "me", "--json").out)
    running = Tokens.load(own_data_dir)
    kodou("keys", "rotate", "--kind", "api")
    before = Generation(own_data_dir).current()
    assert kodou("keys", "retire", "api-00000001").code == 0
    assert Generation(own_data_dir).current() != before
    with pytest.raises(Unauthorized):
        running.read_api(old["api_id"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("api-00000001", "rotate first"),
        ("api-00000009", "no signing key"),
        ("api-../session-00000001", "no signing key"),
        ("both-00000001", "no signing key"),
        ("", "no signing key"),
    ],
)
def test_the_key_that_signs_is_not_retired_nor_one_that_is_not_there(
    kodou: Kodou, own_data_dir: Path, name: str, told: str
) -> None:
    kodou("keys", "create", "me")
    done = kodou("keys", "retire", name)
    assert (done.code, told in done.err) == (1, True)
    assert len(list((own_data_dir / "keys").iterdir())) == 2
