"""A composition as the parts that run one after another. Pure.

Stages of one session are one part. They are cut where the session changes, and around each list operation that is spread
over several sandboxes: its list comes out of the part before it, and what becomes of it goes into the part after it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.composition import operations
from orchestrator.composition.parts import Part, Place, Plan, Spread, Straight
from orchestrator.errors import InvalidRequest

SHAPES = ("pipeline", "pipes", "listop")
# The stage that makes a list of whatever it is given.
LIST: Any = [{"moduleName": "builtins"}, {"name": "list"}]

# What belongs to the first stage, in its session.
_FIRST = ("args", "kwargs", "tuple", "drop")
_PIPE = frozenset({"session", "pipeline"})


def plan(request: Mapping[str, Any], session: Callable[[], str], *, max_parallel: int, max_stages: int) -> Plan | None:
    """Cut a composition into parts; None where there is nothing to cut, and one runner takes it as it came.

    Args:    request: members of its body, as `exact.loads` reads them. session: gives the session of stages that name
             none; raises `InvalidRequest` if there is none. max_stages: pipes and stages together of what is cut.
    Raises:  InvalidRequest: names the member, and the pipe and the stage that it is in.
    """
    shapes = [name for name in SHAPES if name in request]
    if len(shapes) != 1:
        msg = f"a composition has one of {', '.join(SHAPES)}; here are {len(shapes)}"
        raise InvalidRequest(msg, field=shapes[1] if shapes else SHAPES[0])
    planner = _Planner(request, max_parallel)
    if "pipes" in request:
        planner.pipes(request["pipes"], session)
    elif "pipeline" in request:
        planner.pipeline(
            request["pipeline"], session(), [Place(None, number) for number in _range(request["pipeline"])]
        )
    else:
        planner.pipeline([{"listop": request["listop"]}], session(), [Place()])
    made = planner.ended()
    if made is not None:
        _check_count(request, max_stages)
    return made


class _Planner:
    def __init__(self, request: Mapping[str, Any], max_parallel: int) -> None:
        self._request = request
        self._max_parallel = max_parallel
        self._first = {name: request[name] for name in _FIRST if name in request}
        self._parts: list[Part] = []

    def ended(self) -> Plan | None:
        if "pipes" not in self._request and not any(isinstance(part, Spread) for part in self._parts):
            return None
        last = self._parts.pop()
        if isinstance(last, Spread):
            self._parts.append(last)
            last = Straight(last.session, last.place, (LIST,))
        keep = self._request.get("keep", False)
        if type(keep) is not bool:
            msg = "keep must be true or false"
            raise InvalidRequest(msg, field="keep")
        return Plan(tuple(self._parts), last, self._first, keep)

    def pipes(self, pipes: Any, session: Callable[[], str]) -> None:
        if type(pipes) is not list or all(pipe == {} for pipe in pipes):
            msg = "pipes must be a list of objects with a session and a pipeline, at least one"
            raise InvalidRequest(msg, field="pipes")
        for number, pipe in enumerate(pipes):
            if pipe != {}:
                _check_pipe(pipe, number)
                own = pipe["session"] if "session" in pipe else session()
                stages = pipe["pipeline"]
                self.pipeline(stages, own, [Place(number, stage) for stage in _range(stages)])

    def pipeline(self, stages: Any, session: str, places: list[Place]) -> None:
        waiting: list[Any] = []  # stages that are in no part yet
        begin = 0  # of those
        for number, place in enumerate(places):
            spread = operations.spread(stages[number], session, place, max_parallel=self._max_parallel)
            if spread is None:
                waiting.append(stages[number])
                continue
            if not self._parts and not waiting:
                spread = self._with_first_list(spread)
            elif spread.items is not None:
                raise _refused_list(spread, "its list is what the stage before it gives")
            if waiting or (spread.items is None and not self._gives_list()):
                self._parts.append(Straight(session, places[begin], (*waiting, LIST)))
            self._parts.append(spread)
            waiting, begin = [], number + 1
        if waiting:
            self._parts.append(Straight(session, places[begin], tuple(waiting)))

    def _gives_list(self) -> bool:
        """What comes out of the part before is a list for sure."""
        return bool(self._parts) and isinstance(self._parts[-1], Spread)

    def _with_first_list(self, spread: Spread) -> Spread:
        """The first operation of all: its list is its own, or the only argument."""
        args = self._first.get("args", self._first.get("tuple", []))
        by_name = "args" in self._first and type(args) is dict
        args = [] if by_name and not args else args  # no arguments by name are none at all
        if self._first.get("kwargs") or (by_name and args):
            msg = "a list operation takes no keyword arguments"
            field = "kwargs" if self._first.get("kwargs") else "args"
            raise InvalidRequest(msg, field=field, place=spread.place.members())
        given = len(args) if type(args) is list else 1  # what is no list is the runner's to refuse
        if given != (0 if spread.items is not None else 1):
            raise _refused_list(spread, "its list has to be here, or given to it as the only argument")
        if type(spread.items) is list:
            self._first = {name: value for name, value in self._first.items() if name == "drop"}
        if type(spread.items) is not dict:
            return spread
        # A tag, such as an array, of which only the runner can make a list.
        self._first["args"] = [spread.items]
        return replace(spread, items=None)


def _range(stages: Any) -> range:
    """Indices of what is a pipeline; what is none is refused by whoever runs it."""
    return range(len(stages) if type(stages) is list else 0)


def _check_count(request: Mapping[str, Any], most: int) -> None:
    """Raises `InvalidRequest`: there are more pipes and stages together than `most`."""
    pipes = request.get("pipes", [])
    pipelines = [pipe.get("pipeline", []) for pipe in pipes] or [request.get("pipeline", [])]
    count = len(pipes) + sum(map(len, pipelines))
    if count > most:
        msg = f"there are {count} pipes and stages together; over several sandboxes there may be {most}"
        raise InvalidRequest(msg, field="pipes" if pipes else "pipeline")


def _refused_list(spread: Spread, detail: str) -> InvalidRequest:
    return InvalidRequest(detail, field=f"{spread.field}.list", place=spread.place.members())


def _check_pipe(pipe: Any, number: int) -> None:
    field, place = f"pipes[{number}]", {"pipe": number}
    if type(pipe) is not dict:
        msg = "a pipe must be an object with a session and a pipeline"
        raise InvalidRequest(msg, field=field, place=place)
    for name in pipe.keys() - _PIPE:
        msg = f"unknown member; a pipe has {' and '.join(sorted(_PIPE))}"
        raise InvalidRequest(msg, field=f"{field}.{name[:100]}", place=place)
    if type(pipe.get("session", "")) is not str:
        msg = "session must be a string"
        raise InvalidRequest(msg, field=f"{field}.session", place=place)
    if type(pipe.get("pipeline")) is not list or not pipe["pipeline"]:
        msg = "pipeline must be a list of stages, at least one"
        raise InvalidRequest(msg, field=f"{field}.pipeline", place=place)
