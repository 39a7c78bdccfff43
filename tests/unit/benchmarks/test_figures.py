"""The arithmetic behind the report of the benchmarks: percentiles, ratios, targets, and putting runs together."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Figure, Missing, Results, percentile, ratio
from benchmarks.measures import CONTAINER, FASTAPI, GROUPS, MEASURES, kodou_name
from benchmarks.targets import BACKENDS, ROWS, Target


def figure(median: float, *, what: str = "call", subject: str = "it") -> Figure:
    return Figure.of(what, subject, [median])


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (50, 2.5), (100, 4.0), (99, 3.97), (10, 1.3)], ids=lambda value: str(value)
)
def test_a_percentile_lies_between_the_closest_ranks(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(expected)


@given(
    samples=st.lists(st.floats(0, 1e9), min_size=1, max_size=200),
    percents=st.tuples(st.floats(0, 100), st.floats(0, 100)),
)
def test_percentiles_rise_and_stay_within_what_was_seen(samples: list[float], percents: tuple[float, float]) -> None:
    low, high = (percentile(samples, percent) for percent in sorted(percents))
    slack = 1e-9 * max(samples)
    assert min(samples) - slack <= low <= high + slack <= max(samples) + 2 * slack


def test_a_figure_sums_its_samples_up() -> None:
    summed = Figure.of("call", "it", [3.0, 1.0, 2.0])
    assert (summed.count, summed.median, summed.p10, summed.p99) == (3, 2.0, pytest.approx(1.2), pytest.approx(2.98))


def test_a_ratio_is_of_medians() -> None:
    assert ratio(Figure.of("call", "it", [1.0, 3.0, 100.0]), Figure.of("call", "beside", [2.0])) == 1.5


@pytest.mark.parametrize(
    ("target", "measured", "beside", "reached"),
    [
        (Target(at_most=0.015), 0.015, None, True),
        (Target(at_most=0.015), 0.0151, None, False),
        (Target(at_most=0.9, times=True), 0.9, 1.0, True),
        (Target(at_most=0.9, times=True), 0.91, 1.0, False),
        (Target(at_least=1.6, times=True), 8000, 5000, True),
        (Target(at_least=1.6, times=True), 7999, 5000, False),
        (Target(at_most=0.9, times=True), 0.1, None, None),
    ],
)
def test_a_target_is_reached_or_not_or_cannot_be_told(
    target: Target, measured: float, beside: float | None, reached: bool | None
) -> None:
    assert target.reached(figure(measured), None if beside is None else figure(beside)) is reached


def test_every_row_has_its_measure_and_every_measure_its_group() -> None:
    known = {measure.what for measure in MEASURES}
    assert {row.what for row in ROWS} | {row.beside_what for row in ROWS if row.beside_what} <= known
    from benchmarks.groups import GROUPS as MEASURED

    assert tuple(MEASURED) == GROUPS


def test_rows_name_the_backends_own_figures() -> None:
    results = Results(figures=[figure(1, what=row.what, subject=row.subject(b)) for row in ROWS for b in BACKENDS])
    for row in ROWS:
        for backend in BACKENDS:
            found = row.figure(results, backend)
            assert found is not None
            assert found.subject in (kodou_name(backend), kodou_name(backend, pool=False))


def test_results_come_back_from_json_as_they_were() -> None:
    results = Results(
        machine={"kernel": "Linux"},
        figures=[figure(1), figure(2, subject=FASTAPI)],
        missing=[Missing("Ray actor", "no wheel")],
        notes=["a note"],
        sections={"soak": "text"},
    )
    assert Results.from_json(json.loads(json.dumps(results.as_json()))) == results


def test_a_later_run_replaces_what_both_measured_and_nothing_else() -> None:
    first = Results(
        figures=[figure(1, subject="a"), figure(1, subject="b"), figure(5, what="setup", subject=CONTAINER)]
    )
    first.add(Results(figures=[figure(2, subject="a")], missing=[Missing("b", "gone")], sections={"soak": "text"}))
    assert [(f.what, f.subject, f.median) for f in first.figures] == [("setup", CONTAINER, 5), ("call", "a", 2)]
    assert first.missing == [Missing("b", "gone")]
    assert first.sections == {"soak": "text"}
