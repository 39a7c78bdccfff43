"""Compositions inside one session: values go from stage to stage as the objects that they are; protocol section 4."""

from __future__ import annotations

from ..refusal import InvalidRequest
from .arguments import argument_fields, check_members
from .listops import ListOperation
from .namepath import call, made, resolve
from .strict import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from ..place import Place
    from .arguments import Reader, Step
    from .tuples import Tuple

    Stage = list[Step] | ListOperation

# `sessionid`, `session` and `timeout` are the orchestrator's, which leaves them where they are.
_KNOWN = frozenset({"args", "kwargs", "tuple", "pipeline", "listop", "keep", "drop", "sessionid", "session", "timeout"})
# What an earlier part of the composition came to; of the orchestrator's making.
_PIPED = "piped"


class Composition:
    """One composition, read and checked.

    While it is read and while it runs, `place` says where it stands: the stage of a pipeline, and the item.
    """

    def __init__(self, body: bytes, reader: Reader, place: Place) -> None:
        """Raises InvalidRequest, ReferenceNotFound."""
        members = load(body)
        self._place = place
        piped = [reader.value(members.pop(_PIPED), _PIPED)] if _PIPED in members else []
        check_members(members, _KNOWN, "")
        positional, keywords = reader.arguments(members, "")
        self._positional: list[Any] | Tuple = positional or []
        self._keywords = keywords or {}
        self._piped = piped
        self._fields = argument_fields(members)
        self.keep, self.drop = reader.kept(members)
        self._lone = "listop" in members
        self._stages = self._read(members, reader)
        reader.finish()

    def _read(self, members: dict[str, Any], reader: Reader) -> list[Stage]:
        if self._lone == ("pipeline" in members):
            msg = "a composition has to have one of 'pipeline', 'pipes' and 'listop'"
            raise InvalidRequest(msg, "listop" if self._lone else "pipeline")
        given = len(self._positional) + len(self._piped)
        if self._lone:
            operation = ListOperation(members["listop"], "listop", reader)
            self._check_first(operation, given)
            return [operation]
        pipeline = members["pipeline"]
        if type(pipeline) is not list or not pipeline:
            msg = "'pipeline' has to be a list of stages, at least one"
            raise InvalidRequest(msg, "pipeline")
        stages: list[Stage] = []
        for number, members_of_stage in enumerate(pipeline):
            self._place.at_stage(number)
            stage = _stage(members_of_stage, f"pipeline[{number}]", reader)
            if isinstance(stage, ListOperation):
                self._check_first(stage, given) if not number else stage.check_given(1)
            stages.append(stage)
        self._place.take()
        return stages

    def _check_first(self, operation: ListOperation, given: int) -> None:
        if self._keywords:
            msg = "a list operation takes no keyword arguments"
            raise InvalidRequest(msg, self._fields[1])
        operation.check_given(given)

    def run(self, *, max_items: int, after_each: Callable[[], None]) -> Any:
        """What the last stage returns. `after_each` is called after each stage, and each item of a list operation.

        Raises: TooManyItems: a list operation on an iterator that yields more. As `namepath.apply`.
        """
        value: Any = None
        for number, stage in enumerate(self._stages):
            if not self._lone:
                self._place.at_stage(number)
            positional = [value] if number else self._first_positional()
            if isinstance(stage, ListOperation):
                value = stage.run(positional, place=self._place, max_items=max_items, after_each=after_each)
            else:
                fields = (stage[-1].field, stage[-1].field) if number or self._piped else self._fields
                value = call(resolve(stage), stage[-1], positional, {} if number else self._keywords, fields)
            after_each()
        return value

    def _first_positional(self) -> list[Any] | Tuple:
        return [*made(self._positional), *self._piped] if self._piped else self._positional


def _stage(stage: Any, field: str, reader: Reader) -> Stage:
    if type(stage) is dict:
        if "listop" not in stage:
            return ListOperation(stage, field, reader)
        check_members(stage, {"listop"}, field + ".")
        return ListOperation(stage["listop"], field + ".listop", reader)
    if type(stage) is list and len(stage) == 1 and type(stage[0]) is list:
        return reader.steps(stage[0], field + "[0]")  # a namepath in brackets
    return reader.steps(stage, field)
