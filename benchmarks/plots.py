"""A measure as an SVG of bars, readable on light and on dark pages. Pure: results in, text out."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from benchmarks.figures import Figure, Results
from benchmarks.measures import GROUPS, MEASURES, Measure
from benchmarks.report import quantity, ranked

WIDTH, LEFT, RIGHT = 860, 260, 130
BAR, GAP, TOP, BOTTOM = 20, 9, 44, 14
LOGARITHMIC_FROM = 30  # times between the longest and the shortest bar
_LEAST = 0.04  # of the width: a bar that can be seen
_STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
  .kodou { fill: #1f7a4d } .other { fill: #8c959f } .whisker { stroke: #57606a }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9198a1 } .kodou { fill: #3fb27f } .other { fill: #6e7681 } .whisker { stroke: #9198a1 }
  }"""


def plots(results: Results) -> dict[str, str]:
    """One SVG for each measure that more than one subject has, by file name."""
    measured = [measure for group in GROUPS for measure in MEASURES if measure.group == group]
    return {f"{m.what}.svg": bars(m, ranked(m, results)) for m in measured if len(results.of(m.what)) > 1}


def bars(measure: Measure, figures: Sequence[Figure]) -> str:
    """A bar for each subject's median, with a line to its 99th percentile."""
    scale = _Scale([value for figure in figures for value in (figure.median, figure.p99) if value > 0])
    height = TOP + len(figures) * (BAR + GAP) + BOTTOM
    said = "more is better" if measure.more_is_better else "less is better"
    note = f"{said}; line: to the 99th percentile{'; logarithmic' if scale.logarithmic else ''}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{escape(measure.title)}</title><style>{_STYLE}</style>",
        f'<text class="title" x="0" y="15">{escape(measure.title)}</text>',
        f'<text class="small" x="0" y="32">{note}</text>',
        *(line for place, figure in enumerate(figures) for line in _bar(measure, figure, place, scale)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _bar(measure: Measure, figure: Figure, place: int, scale: "_Scale") -> list[str]:
    y = TOP + place * (BAR + GAP)
    middle, base = y + BAR / 2, y + BAR * 0.72
    length, far = scale.length(figure.median), scale.length(figure.p99)
    kind = "kodou" if figure.subject.startswith("kodou") else "other"
    return [
        f'<text x="{LEFT - 8}" y="{base:.1f}" text-anchor="end">{escape(figure.subject)}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>',
        f'<line class="whisker" x1="{LEFT + length:.1f}" y1="{middle}" x2="{LEFT + far:.1f}" y2="{middle}"/>',
        f'<text x="{LEFT + max(length, far) + 8:.1f}" y="{base:.1f}">{quantity(figure.median, measure.unit)}</text>',
    ]


class _Scale:
    """From a value to a bar's length, by its logarithm where the longest would hide the shortest."""

    def __init__(self, values: Sequence[float]) -> None:
        self._most = max(values, default=1.0)
        self._least = min(values, default=1.0)
        self.logarithmic = self._most > LOGARITHMIC_FROM * self._least

    def length(self, value: float) -> float:
        room = WIDTH - LEFT - RIGHT
        if value <= 0:
            return 0
        if not self.logarithmic:
            return room * value / self._most
        share = math.log(value / self._least) / math.log(self._most / self._least)
        return room * (_LEAST + (1 - _LEAST) * share)
