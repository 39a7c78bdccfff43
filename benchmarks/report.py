"""Results as tables: text that a terminal shows and that Markdown renders. Pure."""

from collections.abc import Iterable, Sequence

from benchmarks.figures import Figure, Results, ratio
from benchmarks.measures import MEASURES, Measure, Unit
from benchmarks.targets import BACKENDS, ROWS, Row, Target

NOT_MEASURED = "not measured"
_BY_NAME = {measure.what: measure for measure in MEASURES}


def quantity(value: float, unit: Unit) -> str:
    """A value with its unit, to three digits."""
    if unit == "s":
        return f"{_digits(value)} s" if value >= 1 else f"{_digits(value * 1e3)} ms"
    if unit == "B":
        return f"{_digits(value / 1e6)} MB"
    if unit == "%":
        return f"{value:.2f} %"
    return f"{_digits(value)} {unit}"


def times(value: float) -> str:
    return f"{_digits(value)} x" if value >= 0.01 else f"{value:.4f} x"


def _digits(value: float) -> str:
    """Three digits that count, and no more than the whole number where it has more."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns are as wide as what they hold."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def targets(results: Results) -> str:
    """The figures to reach, and what was reached."""
    head = ("what", "beside it", *(f"kodou on {backend}" for backend in BACKENDS), "to reach", "reached")
    return table(head, (_target_row(row, results) for row in ROWS))


def _target_row(row: Row, results: Results) -> tuple[str, ...]:
    unit = _BY_NAME[row.what].unit
    reached = [_reached(row, results, backend) for backend in BACKENDS]
    return (
        row.title,
        _beside(row, results),
        *(_measured(row, results, backend) for backend in BACKENDS),
        _once(_aim(row.targets.get(backend), unit) for backend in BACKENDS),
        _once(reached),
    )


def _beside(row: Row, results: Results) -> str:
    unit = _BY_NAME[row.beside_what or row.what].unit
    texts = []
    for backend in BACKENDS:
        figure = row.beside_figure(results, backend)
        name = row.beside(backend)
        texts.append(f"{name}: {quantity(figure.median, unit) if figure else NOT_MEASURED}")
    return "; ".join(dict.fromkeys(texts))


def _measured(row: Row, results: Results, backend: str) -> str:
    figure, beside = row.figure(results, backend), row.beside_figure(results, backend)
    if figure is None:
        return NOT_MEASURED
    text = quantity(figure.median, _BY_NAME[row.what].unit)
    return f"{text} ({times(ratio(figure, beside))})" if beside else text


def _aim(target: Target | None, unit: Unit) -> str:
    if target is None:
        return "all served"
    sign, bound = ("≤", target.at_most) if target.at_most is not None else ("≥", target.at_least)
    if bound is None:
        return ""
    return f"{sign} {bound:g} x" if target.times else f"{sign} {quantity(bound, unit)}"


def _reached(row: Row, results: Results, backend: str) -> str:
    figure = row.figure(results, backend)
    if figure is None:
        return NOT_MEASURED
    target = row.targets.get(backend)
    if target is None:  # a sample is taken only where all were served
        return "yes"
    reached = target.reached(figure, row.beside_figure(results, backend))
    return NOT_MEASURED if reached is None else "yes" if reached else "**no**"


def _once(texts: Iterable[str]) -> str:
    """One text for both backends where they agree."""
    return " / ".join(dict.fromkeys(listed)) if len(set(listed := list(texts))) == 1 else " / ".join(listed)


def measure_table(measure: Measure, results: Results) -> str:
    """Every subject of one measure, best first."""
    figures = ranked(measure, results)
    beside = results.find(measure.what, measure.beside)
    head = (measure.title, "median", "10th percentile", "99th percentile", "ratio", "samples")
    return table(head, (_figure_row(measure, figure, beside) for figure in figures))


def ranked(measure: Measure, results: Results) -> list[Figure]:
    return sorted(results.of(measure.what), key=lambda figure: figure.median, reverse=measure.more_is_better)


def _figure_row(measure: Measure, figure: Figure, beside: Figure | None) -> tuple[str, ...]:
    return (
        figure.subject,
        quantity(figure.median, measure.unit),
        quantity(figure.p10, measure.unit),
        quantity(figure.p99, measure.unit),
        times(ratio(figure, beside)) if beside and beside.median else "",
        str(figure.count),
    )


def group_text(group: str, results: Results) -> str:
    """All tables of one group, one after another."""
    return "\n\n".join(measure_table(m, results) for m in MEASURES if m.group == group and results.of(m.what))


def missing(results: Results) -> str:
    if not results.missing:
        return "Everything was measured."
    return "\n".join(f"- **{item.subject}**: {item.reason}" for item in results.missing)


def machine(results: Results) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in results.machine.items())


def notes(results: Results) -> str:
    return "\n".join(f"- {note}" for note in results.notes)


def whole(results: Results) -> str:
    """What is printed at the end of a run."""
    groups = [group_text(group, results) for group in dict.fromkeys(m.group for m in MEASURES)]
    parts = [machine(results), *groups, *results.sections.values(), targets(results)]
    if results.notes:
        parts.append(notes(results))
    parts.append("Not measured:\n" + missing(results) if results.missing else missing(results))
    return "\n\n".join(part for part in parts if part)
