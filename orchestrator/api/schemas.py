"""Bodies of requests and replies. Unknown members are refused, and nothing is converted: `"1"` is no number.

Limits that are settings are checked in `options.py` and described in `openapi.py`. The patterns here describe too: what is
refused by them is refused elsewhere, with a better reason. Reply models describe; replies are not validated again.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from orchestrator.environments.lock import MAX_PACKAGES

_VERSION = r"^(0|[1-9][0-9]{0,3})(\.(0|[1-9][0-9]{0,3})){0,2}$"
# Of a requirement, what a pattern can tell: a name comes first, and no character of a URL, path or option follows.
_DEPENDENCY = r"""^[ \t]*[A-Za-z0-9][A-Za-z0-9 \t._,;<>=!~*+'"()\[\]-]*$"""
_TIMEOUT = r"^0*[1-9][0-9]*$"
_SHA256 = r"^[0-9a-f]{64}$"
_NAMES = r"^[^.]+(\.[^.]+)*$"
_REFERENCE = r"^r[0-9a-f]*-?[0-9]+$"

T = TypeVar("T")
# A member that may be left out and is never null.
Absent = Annotated[
    T | SkipJsonSchema[None], Field(default=None, json_schema_extra=lambda schema: schema.pop("default", None))
]
# JSON knows one kind of number: 64.0 is the integer 64 (JSON Schema says so too).
whole = BeforeValidator(lambda value: int(value) if isinstance(value, float) and value.is_integer() else value)
_Names = Annotated[str, Field(pattern=_NAMES)]
_Text = Annotated[str, Field(max_length=100)]
_Type = Annotated[_Names | list[str], Field(description="Names of a callable of one parameter.", examples=[["int"]])]
_Digits = Annotated[str, Field(pattern=_TIMEOUT, max_length=20)]


def _not_null(value: object) -> object:
    if value is None:
        code = "null"
        raise PydanticCustomError(code, "is never null: leave it out")
    return value


def _lock_of(value: object) -> object:
    """A lock as it is; of all that `GET /environment/{language}/{id}` answers, the lock in it."""
    _not_null(value)
    if not isinstance(value, dict) or "lock" not in value:
        return value
    unknown = sorted(value.keys() - EnvironmentDetail.model_fields)
    if unknown:
        code = "unknown"
        raise PydanticCustomError(code, "unknown members: {names}", {"names": ", ".join(unknown)[:200]})
    return _not_null(value["lock"])


def _not_nullable(schema: dict[str, Any]) -> None:
    """What a description says of a member that `_not_null` is for."""
    del schema["default"]
    schema.update(schema.pop("anyOf")[0])


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ResourcesBody(Body):
    memory_mb: Annotated[
        Annotated[int, Field(ge=64), whole] | None, Field(description="Memory, swap included, in MiB.")
    ] = None
    cpus: Annotated[float | None, Field(description="Processors.", ge=0.05, allow_inf_nan=False)] = None
    pids: Annotated[Annotated[int, Field(ge=8), whole] | None, Field(description="Processes and threads.")] = None
    disk_mb: Annotated[
        Annotated[int, Field(ge=1), whole] | None, Field(description="Size of /tmp in MiB; counts as memory.")
    ] = None


class LockedPackage(Body):
    name: _Text = Field(description="Normalised (PEP 503).", examples=["numpy"])
    version: _Text = Field(examples=["2.4.6"])
    filename: Annotated[str, Field(max_length=256, description="Of the one file that is installed.")]
    sha256: Annotated[str, Field(pattern=_SHA256)]


class LockBody(Body):
    """The lock of an environment: all that is needed to make the same one again, on this server or another."""

    version: Annotated[Annotated[int, Field(ge=1, le=1), whole], Field(description="Of this format.")]
    id: _Text = Field(description="The environment's; a digest over what follows.")
    language: _Text = Field(examples=["python"])
    python: _Text = Field(description="The interpreter's exact version.", examples=["3.12.4"])
    platform: _Text = Field(examples=["x86_64-manylinux_2_36"])
    base: _Text = Field(description="Digest of the base image, or of the host's interpreter.")
    runner: _Text = Field(description="Version of kodou's runner.")
    built_on: _Text = Field(description="Digest of base, runner and all else that an image is built on.")
    index: Annotated[str, Field(max_length=2000, description="Where the packages came from; not used.")]
    packages: Annotated[list[LockedPackage], Field(max_length=MAX_PACKAGES)]


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
        Annotated[int, Field(ge=1), whole] | None,
        Field(description="Seconds of idleness until the session is reaped."),
    ] = None
    refresh: Annotated[bool, Field(description="Resolve again instead of reusing an earlier resolution.")] = False
    lock: Annotated[
        LockBody | None,
        BeforeValidator(_lock_of),
        Field(
            description="An environment's lock, in place of `version`, `dependencies` and `refresh`; or all of the reply "
            "that has it.",
            json_schema_extra=_not_nullable,
        ),
    ] = None


class CloseBody(Body):
    sessionid: Annotated[str | None, Field(description="The session to end; or name it in X-Session-ID.")] = None


class EnvironmentSummary(BaseModel):
    id: str = Field(examples=["py3.12-9f2c4e0d7a61b3c5d8e2f014"])
    language: str = Field(examples=["python"])
    version: str = Field(examples=["3.12.4"])
    packages: dict[str, str] = Field(examples=[{"numpy": "2.4.6"}])


class SetupEnvironment(EnvironmentSummary):
    reused: bool
    lock: Absent[Literal["exact", "packages"]] = Field(
        None,
        description="Of a setup with a lock: the very same environment, or the same packages on another base or runner.",
    )


class SetupReturn(BaseModel):
    error: Literal[False]
    value: str = Field(description="The session id again.")


class SetupReply(BaseModel):
    sessionid: str
    error: Literal[False]
    return_: Annotated[SetupReturn, Field(alias="return")]
    environment: SetupEnvironment
    expires: str = Field(description="RFC 3339.", examples=["2030-01-01T00:00:00Z"])
    cold: Literal["none", "session", "environment"] = Field(description="What had to be made for it; see `Kodou-Cold`.")


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
    lock: LockBody | None = Field(
        description="For `setup`, here or on another server. Null: built by a kodou that did not keep it."
    )
    pylock: str = Field(description="The lock file (PEP 751, pylock.toml), for other tools.")


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

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={"examples": [{"error": False, "value": 12, "type": "numpy.int64", "ms": 0.041}]},
    )

    error: bool
    value: object = None
    type: Absent[str] = Field(None, description="The Python type's qualified name, where it is not JSON's own.")
    code: Absent[str] = Field(
        None,
        description=(
            "With `error`: `exception`, `timeout`, `worker_died`, `value_not_serializable`, `reply_too_large`, "
            "`too_many_items` or `reference_too_large`."
        ),
    )
    detail: Absent[str] = Field(None, description="With a `code` other than `exception`: what happened, in words.")
    exception: Absent[dict[str, str]] = Field(
        None, description="`type`, `message` and `traceback` of the user's frames."
    )
    repr: Absent[str] = Field(None, description="Of a value that has no form; bounded.")
    exit_code: Absent[int] = Field(None, description="With `worker_died`: how the process ended, or by which `signal`.")
    signal: Absent[int] = Field(None, description="With `worker_died`.")
    field: Absent[str] = Field(None, description="With an `exception` of a type in `tuple`: which, as `tuple[1]`.")
    items: Absent[int] = Field(None, description="How many items a stream told; `value` is null then.")
    pipe: Absent[int] = Field(None, description="Of a composition that failed: in which of its `pipes`, from 0 on.")
    stage: Absent[int] = Field(None, description="In which stage of its pipeline.")
    item: Absent[int] = Field(None, description="At which item of a list operation, or of a stream.")
    stdout: Absent[str] = Field(None, description="What the call printed.")
    stderr: Absent[str] = None
    truncated: Absent[bool] = Field(None, description="It printed more than is told.")
    restarted: Absent[bool] = Field(None, description="The session has a fresh interpreter; its state is gone.")
    ms: Absent[float] = Field(None, description="Time inside the runner, in milliseconds.")


class TypedValue(BaseModel):
    """`type` applied to a value."""

    model_config = ConfigDict(extra="forbid")

    value: object
    type: _Type


class TypedArray(BaseModel):
    """`type` applied to each item; the list of what comes of it is one argument."""

    model_config = ConfigDict(extra="forbid")

    array: list[object]
    type: _Type


# One argument: written out, or compact, where the key is the value as a string.
_Typed = TypedValue | TypedArray | Annotated[dict[str, _Type], Field(min_length=1, max_length=1)]
_Reference = Annotated[str, Field(pattern=_REFERENCE, examples=["r1"])]


class NamepathElement(BaseModel):
    """One of `name`, `moduleName` and `ref`; with `args`, `kwargs` or `tuple` it is called."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [{"required": ["name"]}, {"required": ["moduleName"]}, {"required": ["ref"]}],
            "not": {"required": ["args", "tuple"]},
        },
    )

    name: Absent[_Names] = Field(None, description="An attribute, or several with dots.")
    moduleName: Absent[_Names] = Field(None, description="A module, which may be dotted.")
    ref: Absent[_Reference] = Field(None, description="A value that the session keeps; as the first element only.")
    args: Absent[list[object] | dict[str, object]] = None
    kwargs: Absent[dict[str, object]] = None
    tuple: Absent[list[_Typed]] = Field(None, description="Positional arguments of given types, in place of `args`.")


class CallRequest(BaseModel):
    """A call, as `docs/protocol.md` section 2 has it. Read by `call_bodies.py` and the runner, not by this model."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [{"required": ["namepath"]}, {"required": ["drop"]}],
            "not": {"required": ["args", "tuple"]},
            "examples": [
                {
                    "sessionid": "eyJ0…",
                    "timeout": "20000",
                    "namepath": [{"moduleName": "numpy"}, {"name": "array", "args": [[2, 4, 6]]}, {"name": "sum"}],
                    "args": [],
                }
            ],
        },
    )

    sessionid: Absent[str] = Field(None, description="The session; or name it in X-Session-ID.")
    timeout: Absent[Annotated[float, Field(gt=0)] | _Digits] = Field(
        None, description="Milliseconds; past the server's maximum means that."
    )
    namepath: Absent[_Names | Annotated[list[_Names | NamepathElement], Field(min_length=1)]] = Field(
        None, description='What to call, such as "math.sqrt".'
    )
    args: Absent[list[object] | dict[str, object]] = Field(None, description="Positional, or keyword as an object.")
    kwargs: Absent[dict[str, object]] = None
    tuple: Absent[list[_Typed]] = Field(None, description="Positional arguments of given types, in place of `args`.")
    keep: Absent[bool] = Field(None, description="Keep the value in the session, and reply with a reference to it.")
    drop: Absent[list[_Reference]] = Field(None, description="References that are kept no longer.")


class Fault(BaseModel):
    field: str
    detail: str


class Problem(BaseModel):
    """RFC 9457, with two more members: `error` and a stable `code`."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:kodou:problem:invalid_request"])
    title: str = Field(examples=["Invalid request"])
    status: int = Field(examples=[422])
    detail: Absent[str] = Field(None, examples=["namepth: unknown member"])
    field: Absent[str] = Field(None, description="The position in the request.", examples=["namepth"])
    error: Literal[True]
    code: str = Field(examples=["invalid_request"])
    request_id: str = Field(description="As in `X-Request-ID`.")
    errors: Absent[list[Fault]] = Field(None, description="All that is wrong, where more than one member may be.")
    available: Absent[list[str]] = Field(None, description="Of a 406: the forms that the value has.")
    offered: Absent[list[str]] = Field(None, description="Of `unknown_version`: the versions there are.")
    log: Absent[str] = Field(None, description="Of `build_failed`: the end of the installer's log.")
    limit_bytes: Absent[int] = Field(None, description="Of a 413: the bound.")
    pipe: Absent[int] = Field(None, description="Of a composition: in which of its `pipes`, from 0 on.")
    stage: Absent[int] = Field(None, description="Of a composition: in which stage of its pipeline.")
    item: Absent[int] = Field(None, description="Of a composition: at which item of a list operation.")
