"""`kodou` from the shell, beside and against a real server."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import BASE_IMAGES, KODOU, require, running

TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Shell:
    """Runs `kodou` as a user with a key would."""

    environment: dict[str, str]

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [KODOU, *arguments],
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def out(self, *arguments: str, **more: str) -> str:
        """What it prints; it must succeed."""
        done = self.run(*arguments, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout


def plain_environment() -> dict[str, str]:
    """The machine's, without settings of kodou's, and with what the tests' servers run on."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("KODOU_")}
    return {**own, "KODOU_BASE_IMAGES": BASE_IMAGES, "KODOU_ALLOW_PROCESS_BACKEND": "1", "COLUMNS": "120"}


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


@pytest.mark.index
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("bubblewrap", marks=pytest.mark.bubblewrap),
        pytest.param("docker", marks=pytest.mark.docker),
    ],
)
def test_demo_prints_twelve_and_leaves_nothing(backend: str, open_tmp_path: Path) -> None:
    require(backend)
    done = Shell({**plain_environment(), "TMPDIR": str(open_tmp_path)}).run("demo", "--backend", backend)
    assert (done.returncode, done.stdout) == (0, "12\n"), done.stderr
    assert "curl" in done.stderr
    assert list(open_tmp_path.iterdir()) == []
    url = re.search(r"http://127\.0\.0\.1:[0-9]+", done.stderr)
    assert url is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url[0]}/healthz")


@pytest.mark.index
@pytest.mark.bubblewrap
def test_demo_stops_its_server_when_it_is_ended(open_tmp_path: Path) -> None:
    require("bubblewrap")
    environment = {**plain_environment(), "TMPDIR": str(open_tmp_path)}
    demo = subprocess.Popen(
        [KODOU, "demo", "--backend", "bubblewrap"], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert demo.stderr is not None
    url = next(found[0] for line in demo.stderr if (found := re.search(r"http://127\.0\.0\.1:[0-9]+", line)))
    demo.send_signal(signal.SIGTERM)
    demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 128 + signal.SIGTERM
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz")
    assert list(open_tmp_path.iterdir()) == []


def test_demo_does_not_run_beside_a_server() -> None:
    with running("process") as server:
        done = Shell(plain_environment()).run("demo", "--backend", "process", "--data-dir", str(server.data_dir))
    assert done.returncode == 1
    assert f"a server runs on {server.data_dir} already ({server.url})" in done.stderr


def test_serve_on_a_taken_port_fails_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        shell = Shell({**plain_environment(), "KODOU_DATA_DIR": str(tmp_path)})
        done = shell.run("serve", "--port", port, "--backend", "process")
    assert done.returncode == 1
    assert re.fullmatch(r"kodou: [^\n]*in use[^\n]*\n", done.stderr)


def test_the_first_start_on_a_terminal_shows_a_command_that_works(open_tmp_path: Path) -> None:
    with on_terminal(open_tmp_path) as (url, shown):
        token = re.search(r"KODOU_TOKEN=(\S+)", shown)
        assert token is not None
        command = re.search(r'curl "\$KODOU_URL.*', shown, re.DOTALL)
        assert command is not None
        command = command[0].split("\r\n\r\n")[0].replace("\r\n", "\n").replace('["numpy"]', "[]")
        environment = {**os.environ, "KODOU_URL": url, "KODOU_TOKEN": token[1]}
        done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert json.loads(done.stdout)["error"] is False, done.stdout + done.stderr
    with on_terminal(open_tmp_path) as (_, shown):
        assert "KODOU_TOKEN" not in shown


@contextmanager
def on_terminal(data_dir: Path) -> Iterator[tuple[str, str]]:
    """A server started on a terminal: its URL, and what it has shown until it listened."""
    ours, its = pty.openpty()
    server = subprocess.Popen(
        [KODOU, "serve", "--backend", "process", "--port", "0"],
        env={**plain_environment(), "KODOU_DATA_DIR": str(data_dir), "KODOU_KEEP_SESSIONS": "0"},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    os.close(its)
    try:
        shown = _read_until(ours, re.compile(r"kodou listens on (\S+)"))
        found = re.search(r"kodou listens on (\S+)", shown)
        assert found is not None, shown
        yield found[1], shown
    finally:
        server.send_signal(signal.SIGTERM)
        _drain(ours, server)
        os.close(ours)


def _read_until(terminal: int, wanted: re.Pattern[str]) -> str:
    shown, until = "", time.monotonic() + TIMEOUT_S
    while not wanted.search(shown) and time.monotonic() < until:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                shown += os.read(terminal, 65_536).decode(errors="replace")
            except OSError:  # its process has ended
                break
    return shown


def _drain(terminal: int, server: "subprocess.Popen[bytes]") -> None:
    """A terminal that nobody reads would block the server's last words."""
    while server.poll() is None:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                os.read(terminal, 65_536)
            except OSError:
                server.wait(TIMEOUT_S)
