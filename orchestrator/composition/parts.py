"""The parts that a composition is cut into, and where each stands in the request. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """`pipe`: index in `pipes`. `stage`: index in its pipeline; None: a list operation that stands alone."""

    pipe: int | None = None
    stage: int | None = None

    @property
    def field(self) -> str:
        """Of the stage; empty where there are none."""
        stage = "" if self.stage is None else f"pipeline[{self.stage}]"
        return stage if self.pipe is None else f"pipes[{self.pipe}].{stage}"

    def members(self) -> dict[str, int]:
        """As a reply tells it."""
        places = (("pipe", self.pipe), ("stage", self.stage))
        return {name: number for name, number in places if number is not None}


@dataclass(frozen=True, slots=True)
class Straight:
    """Stages, as the client wrote them, that one runner takes one after another. `place` is that of the first."""

    session: str
    place: Place
    stages: tuple[Any, ...]

    def members(self) -> dict[str, int]:
        """Where something befell it: in which of several stages nobody knows."""
        place = self.place if len(self.stages) == 1 else replace(self.place, stage=None)
        return place.members()


@dataclass(frozen=True, slots=True)
class Spread:
    """A list operation over `parallel` sandboxes: the session's own, and others of its kind.

    `operation` is as the client wrote it under `field`, without what is here. `items` are None where they come out of the
    part before.
    """

    session: str
    place: Place
    field: str
    operation: dict[str, Any]
    parallel: int
    items: Any = None
    constructor: Any = None

    def members(self) -> dict[str, int]:
        """Where something befell it."""
        return self.place.members()


Part = Straight | Spread


@dataclass(frozen=True, slots=True)
class Plan:
    """The last part renders the value. `first`: members of the first part's request."""

    before: tuple[Part, ...]
    last: Straight
    first: Mapping[str, Any]
    keep: bool

    @property
    def parts(self) -> tuple[Part, ...]:
        return (*self.before, self.last)
