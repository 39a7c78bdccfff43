"""Loaded by schemathesis: what the description cannot say, and is checked all the same."""

import re

import schemathesis
from schemathesis import Case, CheckContext, HookContext, Response

# Whether a well-formed setup, call or end is possible depends on what is on offer, installed and open. Only for that may
# it be refused with 422, and the reply has to name it: a code, or the member at fault.
_CODES = {
    "unknown_version",
    "dependency_unresolvable",
    "build_failed",
    "name_not_found",
    "attribute_not_found",
    "not_callable",
    "reference_not_found",
    "too_many_references",
}
_FIELDS = (
    "session",  # in the body or in a header: one of both has to be there
    "dependencies[",  # a pattern knows no grammar
    "kwargs",  # names that stand in `args` too
    "namepath",
    "args",
    "pipeline",
    "pipes",
    "listop",  # one type of items, a list where there is one
    "drop",
    "tuple",
    "env",  # bytes in all
    "lock",  # its id is a digest of the rest; and nothing may be asked for beside it
)


@schemathesis.hook
def map_body(ctx: HookContext, body: object) -> object:
    """A file that no argument names is refused, and no schema can tell names of parts to those who make arguments."""
    return {"call": body["call"]} if isinstance(body, dict) and "call" in body else body


@schemathesis.hook
def before_call(ctx: HookContext, case: Case, kwargs: dict[str, object]) -> None:
    """A call's time becomes long where it may be what it is: one of milliseconds ends, on a busy machine, before anything of
    the call was looked at, and a timeout is no refusal."""
    body = case.body
    call = body.get("call", body) if isinstance(body, dict) else None
    if isinstance(call, dict) and _is_time(call.get("timeout")):
        call["timeout"] = 60_000


def _is_time(value: object) -> bool:
    if isinstance(value, str):
        return re.fullmatch("0*[1-9][0-9]*", value, re.ASCII) is not None and len(value) <= 20
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@schemathesis.check
def valid_data_is_refused_for_what_only_the_server_knows(ctx: CheckContext, response: Response, case: Case) -> None:
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 422:
        return
    problem = response.json()
    if problem["code"] in _CODES or str(problem.get("field")).startswith(_FIELDS):
        return
    msg = f"valid data was refused: {problem}"
    raise AssertionError(msg)


@schemathesis.check
def problems_tell_nothing_of_the_server(ctx: CheckContext, response: Response, case: Case) -> None:
    """No path, trace or module of the server in a refusal; what a user's function raised is a reply, not a refusal."""
    if response.status_code < 400:
        return
    text = response.text
    for told in ("Traceback", 'File "', "site-packages", "orchestrator", "/kodou-", "server.log"):
        assert told not in text, f"a refusal tells of {told!r}: {text[:500]}"
