"""The figures to reach, as a table: each row a measure, what stands beside it, and a target for each backend."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import measures
from benchmarks.figures import Figure, Results, ratio
from benchmarks.measures import kodou_name

BACKENDS = ("docker", "bubblewrap")


@dataclass(frozen=True, slots=True)
class Target:
    """`at_most` or `at_least` so much: of the measure's unit, or, if `times`, times what stands beside it."""

    at_most: float | None = None
    at_least: float | None = None
    times: bool = False

    def value(self, figure: Figure, beside: Figure | None) -> float | None:
        """What is compared; None if what should stand beside it was not measured."""
        if not self.times:
            return figure.median
        return None if beside is None else ratio(figure, beside)

    def reached(self, figure: Figure, beside: Figure | None) -> bool | None:
        value = self.value(figure, beside)
        if value is None:
            return None
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


def _kodou(backend: str) -> str:
    return kodou_name(backend)


def _without_pool(backend: str) -> str:
    return kodou_name(backend, pool=False)


def _always(subject: str) -> Callable[[str], str]:
    return lambda backend: subject


@dataclass(frozen=True, slots=True)
class Row:
    """`subject` and `beside` name a subject for each backend; `beside_what`: its measure, if another."""

    title: str
    what: str
    beside: Callable[[str], str]
    targets: dict[str, Target]
    subject: Callable[[str], str] = _kodou
    beside_what: str | None = None

    def figure(self, results: Results, backend: str) -> Figure | None:
        return results.find(self.what, self.subject(backend))

    def beside_figure(self, results: Results, backend: str) -> Figure | None:
        return results.find(self.beside_what or self.what, self.beside(backend))


def _both(target: Target) -> dict[str, Target]:
    return dict.fromkeys(BACKENDS, target)


def _crowd(clients: int) -> Row:
    return Row(
        f"warm calls, {clients} clients over 8 sessions",
        f"crowd-{clients}",
        _always(measures.FASTAPI),
        {"docker": Target(at_least=1.6, times=True), "bubblewrap": Target(at_least=1.8, times=True)},
    )


def _json(megabytes: int) -> Row:
    return Row(
        f"{megabytes} MB of JSON floats",
        f"json-{megabytes}",
        _always(measures.FLOOR),
        _both(Target(at_least=0.8, times=True)),
    )


def _bytes(megabytes: int) -> Row:
    return Row(
        f"{megabytes} MB of raw bytes, beside JSON",
        f"bytes-{megabytes}",
        _kodou,
        _both(Target(at_least=5, times=True)),
        beside_what=f"json-{megabytes}",
    )


ROWS = (
    Row(
        "warm call, 1 client",
        "call",
        _always(measures.FASTAPI),
        {"docker": Target(at_most=0.90, times=True), "bubblewrap": Target(at_most=0.85, times=True)},
    ),
    _crowd(8),
    _crowd(32),
    _json(1),
    _json(10),
    _bytes(1),
    _bytes(10),
    Row(
        "new session, known environment with numpy, warm pool",
        "setup",
        _always(measures.CONTAINER),
        _both(Target(at_most=0.015)),
    ),
    Row(
        "the same, empty pool",
        "setup",
        _always(measures.CONTAINER),
        _both(Target(at_most=1.1, times=True)),
        subject=_without_pool,
    ),
    Row("the last of 50 setups at once", "burst", _always(measures.CONTAINER), {}),
    Row(
        "new environment, wheels cached (numpy)",
        "new",
        _always(measures.UV),
        {"docker": Target(at_most=1.5), "bubblewrap": Target(at_most=0.8)},
    ),
    Row(
        "memory per idle session with numpy (PSS)",
        "memory",
        _always(measures.CONTAINER),
        _both(Target(at_most=17_000_000)),
    ),
    Row(
        "fresh worker after a timeout",
        "restart",
        _always(measures.INTERPRETER),
        _both(Target(at_most=0.020)),
    ),
)
