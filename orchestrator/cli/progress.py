"""A build's steps as a progress bar on standard error."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from orchestrator.cli.terminal import clean

if TYPE_CHECKING:
    from kodou import Progress
    from rich.progress import TaskID

MAX_LINE = 60  # characters of an installer's line that fit beside the bar
PHASES = {
    "resolve": "resolving",
    "fetch": "fetching",
    "install": "installing",
    "compile": "compiling",
    "commit": "writing the image",
    "ready": "starting",
}


class BuildProgress:
    """One line that says what the build does, and one bar for each package under way. Gone when it is over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._phase = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._build = self._phase.add_task("waiting", total=None)
        self._packages: dict[str, TaskID] = {}

    @staticmethod
    def fits() -> bool:
        """Standard error is a terminal."""
        return sys.stderr.isatty()

    def show(self, step: "Progress") -> None:
        """Take in one step, in whatever order they come."""
        told = PHASES.get(step.phase, clean(step.phase))
        if step.package is not None and step.bytes is not None:
            self._fetched(clean(step.package), step.bytes, step.total)
        elif step.package is not None:
            told = f"{told} {clean(step.package)}"
        elif step.line:
            told = f"{told}: {clean(step.line)[:MAX_LINE]}"
        self._phase.update(self._build, description=told)

    def _fetched(self, package: str, done: int, total: int | None) -> None:
        if package not in self._packages:
            self._packages[package] = self._phase.add_task(package, total=total)
        task = self._packages[package]
        self._phase.update(task, completed=done, total=total, visible=total is None or done < total)

    def __enter__(self) -> Self:
        self._phase.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._phase.stop()
