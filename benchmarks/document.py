"""Puts results into docs/performance.md: between marks, so that the text around them is written by hand and stays."""

import json
import re
from pathlib import Path

from benchmarks import report
from benchmarks.figures import Results
from benchmarks.measures import GROUPS, MEASURES
from benchmarks.plots import plots

DOCS = Path(__file__).resolve().parents[1] / "docs"
DOCUMENT = DOCS / "performance.md"
PLOTS = DOCS / "performance"
FIGURES = PLOTS / "figures.json"
_PART = re.compile(r"(?P<begin><!-- generated: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def write(results: Results) -> None:
    """The document's generated parts, its plots, and the figures themselves beside them."""
    PLOTS.mkdir(exist_ok=True)
    for name, text in plots(results).items():
        (PLOTS / name).write_text(text)
    FIGURES.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    DOCUMENT.write_text(replaced(DOCUMENT.read_text(), parts(results)))


def parts(results: Results) -> dict[str, str]:
    """What is generated, by the name of its mark. Groups that were not measured are absent, and stay as they are."""
    made = {
        "machine": report.machine(results),
        "targets": report.targets(results),
        "notes": report.notes(results),
        "missing": report.missing(results),
        **{group: _group(group, results) for group in GROUPS if report.group_text(group, results)},
    }
    return made | results.sections


def replaced(document: str, made: dict[str, str]) -> str:
    """The document with `made` between its marks. Raises ValueError: something was made that has no place there."""
    if absent := made.keys() - {found["name"] for found in _PART.finditer(document)}:
        msg = f"no place for {', '.join(sorted(absent))} in the document"
        raise ValueError(msg)

    def part(found: re.Match[str]) -> str:
        if found["name"] not in made:
            return found[0]
        return f"{found['begin']}{made[found['name']]}\n{found['end']}"

    return _PART.sub(part, document)


def _group(group: str, results: Results) -> str:
    shown = [m for m in MEASURES if m.group == group and len(results.of(m.what)) > 1]
    images = "\n".join(f"![{measure.title}](performance/{measure.what}.svg)" for measure in shown)
    return f"{images}\n\n{report.group_text(group, results)}" if images else report.group_text(group, results)
