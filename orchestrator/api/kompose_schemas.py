"""Compositions in the API's description. They are read by `kompose_bodies.py`, `composition/plan.py` and the runner."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.api import schemas
from orchestrator.api.accepting import JSON, MULTIPART
from orchestrator.api.kompose_credentials import PARAMETER
from orchestrator.api.schemas import Absent, _Names

_Namepath = _Names | Annotated[list[_Names | schemas.NamepathElement], Field(min_length=1)]


class ListOperation(BaseModel):
    model_config = ConfigDict(extra="forbid")

    op: Literal["map", "filter", "reduce", "starmap", "flatmap", "sort", "any", "all"]
    function: Absent[_Namepath] = Field(None, description="What to apply to the items. `sort`, `any`, `all`: if any.")
    items: Absent[list[object] | dict[str, object]] = Field(
        None,
        alias="list",
        description="The items, of the first stage. An array in last position is a namepath that makes each of them.",
    )
    initial: Absent[object] = Field(None, description="Of `reduce`.")
    parallel: Absent[Annotated[int, Field(ge=1)]] = Field(
        None, description="Of `map`, `filter`, `starmap` and `flatmap`: over how many sandboxes."
    )


class ListStage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    listop: ListOperation


_Pipeline = Annotated[list[_Namepath | ListStage | ListOperation], Field(min_length=1)]


class Pipe(BaseModel):
    """Stages of one session. An empty one is skipped."""

    model_config = ConfigDict(extra="forbid")

    session: Absent[str] = Field(None, description="That of the request, if there is none here.")
    pipeline: Absent[_Pipeline] = None


class KomposeRequest(BaseModel):
    """A composition, as `docs/protocol.md` has it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [{"required": ["pipeline"]}, {"required": ["pipes"]}, {"required": ["listop"]}],
            "not": {"required": ["args", "tuple"]},
            "examples": [{"session": "eyJ0…", "args": [[1, 2, 3]], "pipeline": ["sum", ["math", "sqrt"]]}],
        },
    )

    session: Absent[str] = Field(None, description="That of stages which name none; or `jwt`, or X-Session-ID.")
    timeout: Absent[Annotated[float, Field(gt=0)] | schemas._Digits] = Field(
        None, description="Milliseconds for all of it; past the server's maximum means that."
    )
    args: Absent[list[object] | dict[str, object]] = Field(None, description="Of the first stage.")
    kwargs: Absent[dict[str, object]] = None
    tuple: Absent[list[schemas._Typed]] = Field(None, description="In place of `args`.")
    pipeline: Absent[_Pipeline] = Field(None, description="Stages of one session; each gets what the last one gave.")
    pipes: Absent[Annotated[list[Pipe], Field(min_length=1)]] = Field(None, description="Stages in several sessions.")
    listop: Absent[ListOperation] = None
    keep: Absent[bool] = Field(None, description="Keep the value in the last session, and reply with a reference.")
    drop: Absent[list[schemas._Reference]] = Field(None, description="References that the first session drops.")


def operation(replies: dict[str, Any], refusals: dict[int | str, Any], headers: dict[str, Any]) -> dict[str, Any]:
    """`POST /kompose`. `replies`: content of the 200. `headers`: its own."""
    body = {"$ref": f"#/components/schemas/{KomposeRequest.__name__}"}
    files = {"type": "string", "contentMediaType": "application/octet-stream"}
    form = {
        "type": "object",
        "properties": {"call": body},
        "required": ["call"],
        "additionalProperties": files,
        "propertyNames": {"minLength": 1, "maxLength": 200},
    }
    return {
        "tags": ["calls"],
        "summary": "Call functions one after another, or over a list",
        "description": (
            "Stages of one session hand each other objects as they are; between sessions, and with `parallel`, values go in "
            "the form of multipart replies. Replies are those of a call; a failure names `pipe`, `stage` and `item`."
        ),
        "operationId": "kompose",
        "parameters": [
            {
                "name": PARAMETER,
                "in": "query",
                "required": False,
                "description": "In place of Authorization: an API id, or the id of the session.",
                "schema": {"type": "string"},
            },
            {"name": "X-Session-ID", "in": "header", "required": False, "schema": {"type": "string"}},
        ],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": body},
                MULTIPART: {"schema": form, "encoding": {"call": {"contentType": JSON}}},
            },
        },
        "responses": {
            "200": {
                "description": "What the composition came to.",
                "headers": headers,
                "content": replies,
            },
            **{str(status): described for status, described in refusals.items()},
        },
    }
