"""Bodies of `describe` and of its replies."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from runner.discovery.discover import MAX_MEMBERS

from orchestrator.api.schemas import Absent, Body, CallReply, whole

_MAX_NAME = 1000  # characters

_DOTTED = {"type": "string", "pattern": r"^[^.]+(\.[^.]+)*$"}
_ELEMENT = {
    "type": "object",
    "properties": dict.fromkeys(("name", "moduleName"), _DOTTED),
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}
# Judged by the runner, as that of a call is.
_NAMEPATH = WithJsonSchema({"anyOf": [_DOTTED, {"type": "array", "items": {"anyOf": [_DOTTED, _ELEMENT]}}]})
_TIMEOUT = WithJsonSchema(
    {
        "anyOf": [
            {"type": "number", "exclusiveMinimum": 0},
            {"type": "string", "pattern": "^0*[1-9][0-9]*$", "maxLength": 20},
        ]
    }
)

_Name = Annotated[str, Field(max_length=_MAX_NAME)]


class DescribeBody(Body):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sessionid": "eyJ0…", "namepath": "numpy.linalg", "prefix": "ei"}]}
    )

    sessionid: Annotated[str | None, Field(description="The session; or name it in X-Session-ID.")] = None
    timeout: Annotated[object, _TIMEOUT, Field(description="Milliseconds, as of a call.")] = None
    namepath: Annotated[
        object,
        _NAMEPATH,
        Field(description="As of a call, without arguments; the first element may be a `ref`. Empty: the top level."),
    ] = None
    prefix: Annotated[_Name, Field(description="Only members whose names begin so.")] = ""
    private: Annotated[bool, Field(description="Members that begin with an underscore too.")] = False
    limit: Annotated[int, Field(ge=0, le=MAX_MEMBERS, description="How many members at most."), whole] = 200
    after: Annotated[_Name, Field(description="Only members after this one, in the order of names.")] = ""


class Member(BaseModel):
    name: str
    kind: str = Field(examples=["function"])
    signature: Absent[str] = None
    summary: Absent[str] = Field(None, description="The first line of its doc.")


class Description(BaseModel):
    name: str = Field(examples=["math.sqrt"])
    kind: str = Field(
        description=(
            "`namespace` (the top level), `package`, `module`, `class`, `function`, `method`, `classmethod`, `staticmethod`, "
            "`property`, `attribute` or `object` (a kept one)."
        ),
        examples=["function"],
    )
    type: Absent[str] = Field(None, description="The Python type's qualified name.")
    signature: Absent[str] = Field(
        None, description="Where it may be called in several ways, each on a line.", examples=["(x, /)"]
    )
    parameters: Absent[dict[str, object]] = Field(
        None,
        description=(
            "JSON Schema (2020-12) of the arguments by name, for what is called in one way only. `x-kind`: "
            "`positional_only`, `keyword_only` or `var_positional`; `x-python`: the annotation."
        ),
    )
    returns: Absent[dict[str, object]] = Field(
        None, description="JSON Schema of what comes back, where it is annotated."
    )
    doc: Absent[str] = None
    members: list[Member]
    truncated: Absent[bool] = Field(None, description="There are more members: ask for those `after` the last.")


class DescribeReply(CallReply):
    """`value`, or as of a call where importing a module failed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": False,
                    "value": {
                        "name": "numpy.linalg",
                        "kind": "package",
                        "type": "module",
                        "members": [{"name": "eig", "kind": "function", "signature": "(a)"}],
                    },
                    "ms": 2.1,
                }
            ]
        }
    )

    value: Absent[Description] = None
