"""The server against its own description: schemathesis makes requests from it, right and wrong ones, and judges replies."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.conftest import counted, defects, fuzz_seconds, is_long
from tests.servers import Server

_SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
_HOOKS = Path(__file__).with_name("hooks.py")
_EXAMPLES = 8  # of each operation, in CI
_SCENARIOS = 30  # of requests that follow from one another
_PATIENCE_S = 540  # by number, not by time: else a slow machine would ask less
_CONFIG = """
color = false
request-timeout = 60.0
hooks = {hooks}
continue-on-failure = true
# No more than a warning: operations that are mostly reached with ids that do not exist.
warnings = false

[auth.wfc]
path = {keys}
peers = ["ada", "bob"]

[generation]
database = "none"
no-shrink = true

[phases.stateful]
max-steps = 5
generation.max-examples = {scenarios}

# Or hardly a call would find a function and a session, and hardly a setup an interpreter.
[dictionaries]
sessions = {{ values = {sessions} }}
ended = {{ values = {ended} }}
languages = {{ values = ["python"] }}
functions = {{ values = ["os.getpid", "platform.python_version", "dict", "time.time"] }}
versions = {{ values = ["3"] }}

[parameters]
"body.namepath" = {{ dictionary = "functions", probability = 0.8 }}
"body.version" = {{ dictionary = "versions", probability = 0.8 }}
"path.language" = {{ dictionary = "languages", probability = 0.8 }}
"body.sessionid" = {{ dictionary = "sessions", probability = 0.8 }}
"body.session" = {{ dictionary = "sessions", probability = 0.8 }}
"header.X-Session-ID" = {{ dictionary = "sessions", probability = 0.8 }}
"query.jwt" = {{ dictionary = "sessions", probability = 0.5 }}

# Examined more closely by a check of `hooks.py`.
[[operations]]
include-operation-id = ["setup", "poll", "call", "close", "describe", "references", "kompose"]
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 410, 422, 429, 503]
# What is wrong with a call is looked at by the session's sandbox, which may have ended.
checks.negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 428, 429, "5xx"]

# Those that calls are for stay.
[[operations]]
include-operation-id = "close"
parameters = {{ "body.sessionid" = {{ dictionary = "ended", probability = 0.8 }} }}

# Environments are shared by all who may set one up.
[[operations]]
include-operation-id = "environment"
checks.object_level_authorization.enabled = false
"""


@pytest.mark.timeout(_PATIENCE_S + 60 + fuzz_seconds(0))
def test_the_server_does_what_its_description_says(fuzzed: Server, tmp_path: Path) -> None:
    run = subprocess.run(
        [
            _SCHEMATHESIS,
            "--config-file",
            _configured(fuzzed, tmp_path),
            "run",
            f"{fuzzed.url}/openapi.json",
            *_bounds(),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S + fuzz_seconds(0),
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2000:] + defects(fuzzed)
    # It must have come as far as the sandboxes, or there was nothing to see.
    answered = counted(fuzzed)
    print(f"requests by status: {_by_status(answered)}")

    environment = "/environment/{language}"
    in_sandboxes = [
        ("POST", f"{environment}/call"),
        ("POST", f"{environment}/describe"),
        ("POST", "/kompose"),
        ("GET", "/session/references"),
    ]
    for operations in ([("POST", f"{environment}/setup")], in_sandboxes, [("DELETE", "/session")]):
        assert any((*operation, "200") in answered for operation in operations), f"{operations} never came to anything"
    assert not any(status == "500" for _, _, status in answered)


def _bounds() -> list[str]:
    # A seed in CI, so that a change that has nothing to do with it cannot fail.
    return ["--max-time", str(fuzz_seconds(0))] if is_long() else ["--seed", "1", "-n", str(_EXAMPLES)]


def _configured(server: Server, directory: Path) -> Path:
    """Two owners' keys: what the one may read, the other must not."""
    keys = directory / "keys.json"
    shown = {name: f"Bearer {server.key(name)['api_id']}" for name in ("ada", "bob")}
    keys.write_text(
        json.dumps(
            {
                "auth": [
                    {"name": name, "fixedHeaders": [{"name": "Authorization", "value": value}]}
                    for name, value in shown.items()
                ]
            }
        )
    )
    config = directory / "schemathesis.toml"
    # Long enough idle for all of the run: which request finds one is not to depend on when it is made.
    # And one only, or body and header would seldom name the same.
    sessions = [server.session("ada", dependencies=[], ttl=3600).id]
    ended = [server.session("ada", dependencies=[]).id]
    told = {"hooks": str(_HOOKS), "keys": str(keys), "sessions": sessions, "ended": ended}
    scenarios = 1000 if is_long() else _SCENARIOS
    config.write_text(_CONFIG.format(**{name: json.dumps(value) for name, value in told.items()}, scenarios=scenarios))
    return config


def _by_status(answered: dict[tuple[str, str, str], int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for (_, _, status), count in answered.items():
        found[status] = found.get(status, 0) + count
    return found
