from pathlib import Path

import pytest

from orchestrator.errors import BuildFailed, Defect, DependencyUnresolvable, IndexUnavailable, KodouError
from orchestrator.packages.explain import explanation, needs_source_build, resolve_failure, tail
from tests.unit.environments.fakes import settings_in

SETTINGS = settings_in(Path("/nowhere"), build_log_tail_bytes=1000)

NO_WHEELS = (
    "error: No solution found when resolving dependencies\n"
    "  cause: Because docopt==0.6.2 has no usable wheels and you require docopt==0.6.2, we can conclude that your"
    " requirements are unsatisfiable.\n\n"
    "hint: Wheels are required for `docopt` because building from source is disabled for all packages (i.e., with"
    " `--no-build`)\n"
)
UNKNOWN = (
    "error: No solution found when resolving dependencies\n"
    "  cause: Because nosuch was not found in the package registry and you require nosuch, we can conclude that your"
    " requirements are unsatisfiable.\n"
)
NO_TAG = (
    "error: No solution found when resolving dependencies\n"
    "  cause: Because torch==1.0.0 has no wheels with a matching Python ABI tag (e.g., `cp312`) and you require"
    " torch==1.0.0, we can conclude that your requirements are unsatisfiable.\n"
)
DNS = """error: Request failed after 3 retries in 5.1s
  cause: Failed to fetch: https://pypi.invalid/simple/numpy/
  cause: dns error
"""
CREDENTIALS = (
    f"{UNKNOWN}\nhint: An index URL (https://host/simple) could not be queried due to a lack of valid authentication"
    " credentials (401 Unauthorized)\n"
)
BUILD = """  x Failed to build `broken==1.0`
  |-> The build backend returned an error
  `-> Call to `setuptools.build_meta.build_wheel` failed (exit status: 1)
"""


@pytest.mark.parametrize(("log", "worth_it"), [(NO_WHEELS, True), (UNKNOWN, False), (NO_TAG, False), (DNS, False)])
def test_sources_are_tried_only_where_they_may_help(log: str, worth_it: bool) -> None:
    assert needs_source_build(1, log) is worth_it
    assert not needs_source_build(2, log)


@pytest.mark.parametrize(
    ("code", "log", "from_source", "kind"),
    [
        (1, NO_WHEELS, False, DependencyUnresolvable),
        (1, UNKNOWN, False, DependencyUnresolvable),
        (1, UNKNOWN, True, DependencyUnresolvable),
        (2, DNS, False, IndexUnavailable),
        (2, DNS, True, IndexUnavailable),
        (1, CREDENTIALS, False, IndexUnavailable),
        (1, 'error: Unsupported `Content-Type` "x" for `http://i/`. Expected JSON or HTML.', False, IndexUnavailable),
        (2, BUILD, True, BuildFailed),
        (1, BUILD, True, BuildFailed),
        (-9, "", True, BuildFailed),
        (2, "error: Couldn't parse requirement in `-` at position 0", False, DependencyUnresolvable),
        (2, "error: failed to write: No space left on device (os error 28)", False, Defect),
    ],
)
def test_failures_are_told_apart(code: int, log: str, from_source: bool, kind: type[KodouError]) -> None:
    assert type(resolve_failure(code, log, settings=SETTINGS, from_source=from_source)) is kind


def test_the_resolver_is_quoted_without_what_is_not_the_callers() -> None:
    log = (
        "warning: something\nerror: \x1b[1mNo solution\x1b[0m in /var/lib/kodou/uv-cache/x.toml"
        " via https://user:secret@index.example/simple/numpy/ and (/srv/a/b)\r\n" + "x" * 10_000
    )
    text = explanation(log)
    assert text.startswith("No solution in <path> via https://index.example/simple/numpy/ and (<path>)\nxxx")
    assert len(text) == 4096


def test_a_log_tail_is_bounded_and_clean() -> None:
    text = tail("start" + "y" * 5000 + "\x07\x1b[31mend /home/me/x.py", SETTINGS)
    assert len(text) <= 1000
    assert text.endswith("end <path>")
