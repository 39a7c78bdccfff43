"""`kodou` from the shell, beside and against a real server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.shell import Shell, plain_environment
from tests.servers import require, running


@pytest.fixture
def shell(server: Any) -> Shell:
    """Of the user "cli", on the server under test and its data directory."""
    return Shell(
        {
            **plain_environment(),
            "KODOU_URL": server.url,
            "KODOU_TOKEN": server.key("cli")["api_id"],
            "KODOU_DATA_DIR": str(server.data_dir),
            "KODOU_BACKEND": server.backend,
        }
    )


@pytest.fixture
def session(shell: Shell) -> Iterator[str]:
    """The id that `kodou setup` prints, of a bare interpreter."""
    yield shell.out("setup").strip()
    for listed in json.loads(shell.out("sessions", "list", "--json")):
        if listed["owner"] == "cli":
            shell.out("sessions", "stop", listed["id"])


def test_setup_and_call(shell: Shell, session: str) -> None:
    assert session.count(".") == 2
    assert shell.out("call", "math.sqrt", "9", KODOU_SESSION=session) == "3.0\n"
    assert json.loads(shell.out("call", '["math", "hypot"]', "3", "-4", "--session", session)) == 5.0
    assert shell.out("call", "int", '"ff"', "--kwarg", "base=16", "--session", session) == "255\n"
    printed = shell.run("call", "print", '"hello"', "--session", session, "--json")
    assert (json.loads(printed.stdout)["value"], printed.stderr) == (None, "hello\n")


def test_what_a_call_can_do_the_shell_can(shell: Shell, session: str, tmp_path: Path) -> None:
    named = ("--session", session)
    kept = json.loads(shell.out("call", "random.Random", "7", "--keep", *named))
    assert shell.out("call", json.dumps([{"ref": kept["$ref"]}, "randint"]), "1", "6", *named) == "3\n"
    assert shell.out("call", "abs", "--tuple", '[{"-3.5": "decimal.Decimal"}]', *named) == '"3.5"\n'
    (tmp_path / "data").write_bytes(b"\0\1\2")
    shell.out("call", "bytes.hex", '{"$file": "a"}', "--file", f"a={tmp_path / 'data'}", "--accept", "text/plain",
              "--output", str(tmp_path / "hex"), *named)  # fmt: skip
    assert (tmp_path / "hex").read_text() == "000102"
    (tmp_path / "pipe").write_text('{"args": [[3, 1, 2]], "pipeline": ["sorted"]}')
    assert shell.out("kompose", str(tmp_path / "pipe"), *named) == "[1, 2, 3]\n"
    assert "sqrt(x, /)" in shell.out("describe", "math", *named)
    shell.out("close", session)
    assert shell.run("call", "math.sqrt", "9", *named).returncode == 1


def test_a_call_that_fails_says_why(shell: Shell, session: str) -> None:
    raised = shell.run("call", "math.sqrt", "-1", "--session", session)
    assert (raised.returncode, raised.stdout) == (1, "")
    assert raised.stderr.startswith("kodou: ValueError: ")
    missing = shell.run("call", "math.no_such_thing", "--session", session)
    assert missing.returncode == 1
    assert "no_such_thing" in missing.stderr
    late = shell.run("call", "time.sleep", "60", "--timeout", "1s", "--session", session)
    assert late.returncode == 1
    assert shell.out("call", "math.sqrt", "9", "--session", session) == "3.0\n"


def test_a_foreign_token_is_refused_in_one_line(shell: Shell) -> None:
    done = shell.run("setup", KODOU_TOKEN="nonsense")
    assert done.returncode == 1
    assert re.fullmatch(r"kodou: [^\n]+\n", done.stderr)


def test_a_revoked_key_ends_at_once(shell: Shell, session: str) -> None:
    made = json.loads(shell.out("keys", "create", "cli", "--json"))
    call = ("call", "math.sqrt", "9", "--session", session)
    assert shell.out(*call, KODOU_TOKEN=made["api_id"]) == "3.0\n"
    shell.out("keys", "revoke", made["id"])
    refused = shell.run(*call, KODOU_TOKEN=made["api_id"])
    assert refused.returncode == 1
    assert "revoked" in refused.stderr


def test_a_stopped_session_ends_at_once(shell: Shell, session: str) -> None:
    (listed,) = (each for each in json.loads(shell.out("sessions", "list", "--json")) if each["owner"] == "cli")
    assert shell.out("call", "math.sqrt", "9", "--session", session) == "3.0\n"
    assert shell.out("sessions", "stop", listed["id"]) == f"stopped {listed['id']}\n"
    assert shell.run("call", "math.sqrt", "9", "--session", session).returncode == 1
    assert listed["id"] not in shell.out("sessions", "list")
    shell.out("sessions", "stop", listed["id"])


@pytest.mark.index
def test_an_image_that_a_session_holds_is_not_picked_for_pruning(shell: Shell) -> None:
    made = json.loads(shell.out("setup", "iniconfig", "--json"))
    id = made["environment"]["id"]
    assert "iniconfig" in shell.out("images", "show", id)
    assert id in shell.out("images", "list")

    # Only dry runs: an engine's images belong to others on this machine, too.
    assert id not in shell.out("images", "prune", "--all", "--dry-run")
    for listed in json.loads(shell.out("sessions", "list", "--json")):
        if listed["environment"] == id:
            shell.out("sessions", "stop", listed["id"])
    assert f"would remove: {id}" in shell.out("images", "prune", "--all", "--dry-run")


@pytest.mark.index
@pytest.mark.bubblewrap
def test_a_pruned_image_is_gone_and_built_again() -> None:
    require("bubblewrap")
    with running("bubblewrap") as server:
        held = server.session("held")
        idle = server.session("idle", dependencies=["iniconfig"])
        idle.close()
        shell = Shell({**plain_environment(), "KODOU_DATA_DIR": str(server.data_dir), "KODOU_BACKEND": "bubblewrap"})
        (pruned,) = json.loads(shell.out("images", "prune", "--all", "--yes", "--json"))
        assert (pruned["environment_id"], pruned["kept"]) == (idle.setup["environment"]["id"], None)
        assert shell.run("images", "show", pruned["environment_id"]).returncode == 1
        assert held.value("math.sqrt", 9) == 3.0

        again = server.session("idle", dependencies=["iniconfig"])
        assert again.setup["environment"]["id"] == pruned["environment_id"]
        assert again.setup["environment"]["reused"] is False
        assert again.value("iniconfig.IniConfig.__name__") == "IniConfig"


def test_doctor_finds_that_the_server_can_run(shell: Shell, server: Any) -> None:
    done = shell.run("doctor", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["serves"]) == (0, True), told
    found = {(each["about"], each["name"]): each for each in told["findings"]}
    assert found["data directory", "writable"]["detail"] == str(server.data_dir)
    assert found[f"serving with {server.backend}", "interpreters"]["held"]
    assert {about for about, _ in found} >= {"package index", "backend docker", "backend bubblewrap"}


def test_doctor_says_what_is_missing(tmp_path: Path) -> None:
    shell = Shell(
        {**plain_environment(), "KODOU_DATA_DIR": str(tmp_path), "KODOU_DOCKER_URL": f"unix://{tmp_path}/none"}
    )
    done = shell.run("doctor", "--backend", "docker", KODOU_INDEX_URL="http://127.0.0.1:9/simple")
    assert done.returncode == 1
    assert "!!  backend: no Docker engine answers" in done.stdout
    assert "--  reachable: http://127.0.0.1:9/simple does not answer" in done.stdout
