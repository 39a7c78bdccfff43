"""What the benchmarks write: quantities, the table of targets, plots, and the document's generated parts."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from benchmarks import document, report
from benchmarks.figures import Figure, Missing, Results
from benchmarks.measures import FASTAPI, GROUPS, MEASURES, Unit, kodou_name
from benchmarks.plots import bars, plots
from benchmarks.targets import ROWS


def results(**medians: float) -> Results:
    """Of calls: a subject for each word, with `_` for what its name has in its place."""
    names = {"fastapi": FASTAPI, "docker": kodou_name("docker"), "bubblewrap": kodou_name("bubblewrap")}
    return Results(figures=[Figure.of("call", names[name], [median]) for name, median in medians.items()])


def row(text: str, title: str) -> list[str]:
    """The cells of the row whose first cell is `title`."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return next(cells for cells in lines if cells[0] == title)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.000123, "s", "0.123 ms"),
        (0.0153, "s", "15.3 ms"),
        (0.31, "s", "310 ms"),
        (1.5, "s", "1.50 s"),
        (16_500_000, "B", "16.5 MB"),
        (4700, "calls/s", "4,700 calls/s"),
        (66.04, "MB/s", "66.0 MB/s"),
        (0.054, "%", "0.05 %"),
    ],
)
def test_quantities_have_three_digits_and_a_unit(value: float, unit: Unit, text: str) -> None:
    assert report.quantity(value, unit) == text


def test_targets_tell_for_each_backend_whether_they_are_reached() -> None:
    cells = row(report.targets(results(fastapi=0.001, docker=0.00095, bubblewrap=0.0007)), "warm call, 1 client")
    assert cells[1:] == [
        "FastAPI endpoint (def): 1.00 ms",
        "0.950 ms (0.950 x)",
        "0.700 ms (0.700 x)",
        "≤ 0.9 x / ≤ 0.85 x",
        "**no** / yes",
    ]


def test_what_was_not_measured_is_never_called_reached() -> None:
    text = report.targets(Results())
    assert len(text.splitlines()) == len(ROWS) + 2
    assert "yes" not in text
    assert row(text, ROWS[0].title)[-1] == report.NOT_MEASURED
    # Nor is a ratio told without what stands beside it.
    assert row(report.targets(results(docker=0.001)), "warm call, 1 client")[-1] == report.NOT_MEASURED


def test_the_last_of_a_burst_counts_as_reached_where_there_is_a_time() -> None:
    served = Results(figures=[Figure.of("burst", kodou_name("docker"), [9.0])])
    assert row(report.targets(served), "the last of 50 setups at once")[-1] == "yes / not measured"


def test_subjects_stand_best_first_whatever_best_is() -> None:
    by_name = {measure.what: measure for measure in MEASURES}
    figures = [Figure.of(what, name, [value]) for what in ("call", "crowd-8") for name, value in (("a", 1), ("b", 2))]
    assert [f.subject for f in report.ranked(by_name["call"], Results(figures=figures))] == ["a", "b"]
    assert [f.subject for f in report.ranked(by_name["crowd-8"], Results(figures=figures))] == ["b", "a"]


def test_what_is_missing_is_said_with_its_reason() -> None:
    assert "**Ray actor**: no wheel" in report.whole(Results(missing=[Missing("Ray actor", "no wheel")]))


@pytest.mark.parametrize("values", [(1.0, 2.0), (0.0001, 50.0), (0.0, 0.0), (3.0, 3.0)], ids=str)
def test_a_plot_is_well_formed_and_keeps_within_its_frame(values: tuple[float, float]) -> None:
    measure = MEASURES[0]
    svg = ElementTree.fromstring(
        bars(measure, [Figure.of("call", f"<{value}>", [value, value * 1.5]) for value in values])
    )
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    bars_drawn = svg.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars_drawn) == len(values)
    for bar in bars_drawn:
        assert 0 <= float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width
        assert 0 <= float(bar.attrib["y"]) + float(bar.attrib["height"]) <= height


def test_a_plot_is_made_where_there_is_something_to_compare() -> None:
    assert plots(results(docker=1)) == {}
    assert set(plots(results(docker=1, fastapi=2))) == {"call.svg"}


def test_only_generated_parts_of_the_document_change() -> None:
    text = "before\n<!-- generated: calls -->\nold\n<!-- end -->\nbetween\n<!-- generated: setups -->\nkept\n<!-- end -->\n"
    assert document.replaced(text, {"calls": "new \\1"}) == text.replace("old", "new \\1")


def test_what_has_no_place_in_the_document_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for soak"):
        document.replaced("<!-- generated: calls -->\n<!-- end -->", {"soak": "text"})


def test_the_document_has_a_place_for_all_that_is_generated() -> None:
    places = set(re.findall(r"<!-- generated: ([a-z-]+) -->", document.DOCUMENT.read_text()))
    assert places >= {"machine", "targets", "notes", "missing", *GROUPS}
