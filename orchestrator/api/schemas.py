"""Bodies of requests and replies. Unknown members are refused, and nothing is converted: `"1"` is no number.

Limits that are settings are checked in `options.py` and described in `openapi.py`. The patterns here describe too: what is
refused by them is refused elsewhere, with a better reason. Reply models describe; replies are not validated again.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

_VERSION = r"^(0|[1-9][0-9]{0,3})(\.(0|[1-9][0-9]{0,3})){0,2}$"
# Of a requirement, what a pattern can tell: a name comes first, and no character of a URL, path or option follows.
_DEPENDENCY = r"""^[ \t]*[A-Za-z0-9][A-Za-z0-9 \t._,;<>=!~*+'"()\[\]-]*$"""
_TIMEOUT = r"^0*[1-9][0-9]*$"
_NAMES = r"^[^.]+(\.[^.]+)*$"

T = TypeVar("T")
# A member that may be left out and is never null.
_Absent = Annotated[
    T | SkipJsonSchema[None], Field(default=None, json_schema_extra=lambda schema: schema.pop("default", None))
]
# JSON knows one kind of number: 64.0 is the integer 64 (JSON Schema says so too).
_whole = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
_Names = Annotated[str, Field(pattern=_NAMES)]
_Digits = Annotated[str, Field(pattern=_TIMEOUT, max_length=7)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ResourcesBody(Body):
    memory_mb: Annotated[
        Annotated[int, Field(ge=64), _whole] | None, Field(description="Memory, swap included, in MiB.")
    ] = None
    cpus: Annotated[float | None, Field(description="Processors.", ge=0.05, allow_inf_nan=False)] = None
    pids: Annotated[Annotated[int, Field(ge=8), _whole] | None, Field(description="Processes and threads.")] = None
    disk_mb: Annotated[
        Annotated[int, Field(ge=1), _whole] | None, Field(description="Size of /tmp in MiB; counts as memory.")
    ] = None


class SetupBody(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": "3", "dependencies": ["numpy", "requests>=2.31"]}]}
    )

    version: Annotated[
        Annotated[str, Field(max_length=50, json_schema_extra={"pattern": _VERSION})] | None,
        Field(description='Such as "3", "3.12" or "3.12.4": the newest interpreter that matches.'),
    ] = None
    dependencies: Annotated[
        list[Annotated[str, Field(json_schema_extra={"pattern": _DEPENDENCY})]],
        Field(description="PEP 508 requirements; order, case and spelling of names do not matter."),
    ] = []
    resources: Annotated[ResourcesBody | None, Field(description="What the sandbox may take.")] = None
    network: Annotated[
        Literal["none", "egress"] | None, Field(description="`egress` only where the operator and the key allow it.")
    ] = None
    env: Annotated[dict[str, str] | None, Field(description="Environment variables of the session.")] = None
    ttl: Annotated[
        Annotated[int, Field(ge=1), _whole] | None,
        Field(description="Seconds of idleness until the session is reaped."),
    ] = None
    refresh: Annotated[bool, Field(description="Resolve again instead of reusing an earlier resolution.")] = False


class CloseBody(Body):
    sessionid: Annotated[str | None, Field(description="The session to end; or name it in X-Session-ID.")] = None


class EnvironmentSummary(BaseModel):
    id: str = Field(examples=["py3.12-9f2c4e0d7a61b3c5d8e2f014"])
    language: str = Field(examples=["python"])
    version: str = Field(examples=["3.12.4"])
    packages: dict[str, str] = Field(examples=[{"numpy": "2.4.6"}])


class SetupEnvironment(EnvironmentSummary):
    reused: bool


class SetupReturn(BaseModel):
    error: Literal[False]
    value: str = Field(description="The session id again.")


class SetupReply(BaseModel):
    sessionid: str
    error: Literal[False]
    return_: Annotated[SetupReturn, Field(alias="return")]
    environment: SetupEnvironment
    expires: str = Field(description="RFC 3339.", examples=["2030-01-01T00:00:00Z"])


class OperationReply(BaseModel):
    error: Literal[False]
    status: Literal["building"]
    phase: str = Field(examples=["fetch"])
    operation: str = Field(description="The last part of `location`.")
    location: str


class EnvironmentDetail(EnvironmentSummary):
    error: Literal[False]
    state: str
    reason: str
    size_bytes: int
    created: str
    last_used: str
    uses: int
    lock: str = Field(description="The lock file (PEP 751, pylock.toml): exact versions, files and hashes.")


class EnvironmentListed(EnvironmentSummary):
    state: str
    size_bytes: int
    created: str
    last_used: str


class LanguageReply(BaseModel):
    error: Literal[False]
    language: str
    versions: list[str] = Field(description="Interpreters on offer, newest first.")
    default: str | None
    environments: list[EnvironmentListed]


class SessionListed(BaseModel):
    id: str = Field(description="A name for it; not the session id that calls need.")
    environment: str
    state: str
    reason: str
    since: str
    created: str
    last_used: str
    expires: str
    ttl: int
    resources: ResourcesBody
    network: str


class SessionsReply(BaseModel):
    error: Literal[False]
    sessions: list[SessionListed]


class ClosedReply(BaseModel):
    error: Literal[False]


class CallReply(BaseModel):
    """What a call came to. `error` tells whether it is `value`, or one of the ways to fail by `code`."""

    model_config = ConfigDict(extra="allow")

    error: bool
    value: object = None
    type: str | None = Field(None, description="The Python type's qualified name.", examples=["numpy.int64"])
    code: str | None = Field(
        None,
        description="With `error`: `exception`, `value_not_serializable`, `reply_too_large`, `timeout` or `worker_died`.",
    )
    exception: dict[str, str] | None = Field(
        None, description="`type`, `message` and `traceback` of the user's frames."
    )
    stdout: str | None = None
    stderr: str | None = None
    truncated: bool | None = None
    restarted: bool | None = Field(None, description="The session has a fresh interpreter; its state is gone.")
    ms: float | None = Field(None, description="Time inside the runner, in milliseconds.")


class NamepathElement(BaseModel):
    """One of `name` and `moduleName`; with `args` or `kwargs` it is called."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [{"required": ["name"]}, {"required": ["moduleName"]}]}
    )

    name: _Absent[_Names] = Field(None, description="An attribute, or several with dots.")
    moduleName: _Absent[_Names] = Field(None, description="A module, which may be dotted.")
    args: _Absent[list[object] | dict[str, object]] = None
    kwargs: _Absent[dict[str, object]] = None


class CallRequest(BaseModel):
    """A call, as `docs/protocol.md` section 2 has it. Read by `calls.py` and the runner, not by this model."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "sessionid": "eyJ0…",
                    "timeout": "20000",
                    "namepath": [{"moduleName": "numpy"}, {"name": "array", "args": [[2, 4, 6]]}, {"name": "sum"}],
                    "args": [],
                }
            ]
        },
    )

    sessionid: _Absent[str] = Field(None, description="The session; or name it in X-Session-ID.")
    timeout: _Absent[Annotated[float, Field(gt=0)] | _Digits] = Field(
        None, description="Milliseconds; past the server's maximum means that."
    )
    namepath: _Names | Annotated[list[_Names | NamepathElement], Field(min_length=1)] = Field(
        description='What to call, such as "math.sqrt".'
    )
    args: _Absent[list[object] | dict[str, object]] = Field(None, description="Positional, or keyword as an object.")
    kwargs: _Absent[dict[str, object]] = None


class Problem(BaseModel):
    """RFC 9457, with two more members: `error` and a stable `code`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:kodou:problem:invalid_request"])
    title: str
    status: int
    detail: str | None = None
    error: Literal[True]
    code: str = Field(examples=["invalid_request"])
    request_id: str
