"""What a run measured, as numbers: the summary of each series of samples, and ratios between two. No I/O but JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


def percentile(samples: Sequence[float], percent: float) -> float:
    """Linear between the closest ranks, as numpy's default. `samples`: at least one; `percent`: 0 to 100."""
    ranked = sorted(samples)
    place = (len(ranked) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)


@dataclass(frozen=True, slots=True)
class Figure:
    """One subject's samples of one measure (`what`), summed up; in the measure's unit."""

    what: str
    subject: str
    count: int
    median: float
    p10: float
    p99: float

    @classmethod
    def of(cls, what: str, subject: str, samples: Sequence[float]) -> "Figure":
        return cls(what, subject, len(samples), median(samples), percentile(samples, 10), percentile(samples, 99))


def ratio(figure: Figure, beside: Figure) -> float:
    """How many times what stands beside it this is, by medians."""
    return figure.median / beside.median


@dataclass(frozen=True, slots=True)
class Missing:
    """What could not be measured, and why."""

    subject: str
    reason: str


@dataclass
class Results:
    """All of one run, or of several put together. `sections`: text that other modules made, by its place in the document."""

    machine: dict[str, str] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)

    def find(self, what: str, subject: str) -> Figure | None:
        return next((f for f in self.figures if (f.what, f.subject) == (what, subject)), None)

    def of(self, what: str) -> list[Figure]:
        return [figure for figure in self.figures if figure.what == what]

    def add(self, other: "Results") -> None:
        """Take in what a later run measured; where both did, the later one's holds."""
        measured = {figure.what for figure in other.figures}
        self.figures = [f for f in self.figures if f.what not in measured] + other.figures
        self.missing = [m for m in self.missing if m not in other.missing] + other.missing
        self.notes = [n for n in self.notes if n not in other.notes] + other.notes
        self.machine |= other.machine
        self.sections |= other.sections

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Results":
        return cls(
            machine=data["machine"],
            figures=[Figure(**item) for item in data["figures"]],
            missing=[Missing(**item) for item in data["missing"]],
            notes=data["notes"],
            sections=data["sections"],
        )
