"""One run: what is open, what was measured, and what could not be. Servers of kodou stay open from group to group."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Figure, Missing, Results
from benchmarks.subjects.images import Images
from benchmarks.subjects.kodou import Kodou

# With numpy's wheel at hand, each of these makes an environment that is new but for a file of 11 kB.
NEW = tuple(f"six==1.{minor}.0" for minor in range(10, 18))
_FIRST_UID, _UIDS_APART = 3_000_000, 100_000


@dataclass(frozen=True, slots=True)
class Options:
    """`calls`: by one client in a round; `seconds`: of a crowd in a round; `sessions`: idle ones; `burst`: setups at once."""

    backends: tuple[str, ...]
    rounds: int
    calls: int
    seconds: float
    sessions: int
    burst: int


@dataclass(frozen=True, slots=True)
class Series:
    """What a subject is asked once in a round, at most `rounds` times: samples by the measure they are of."""

    subject: str
    sample: Callable[[], Mapping[str, Sequence[float]]]
    rounds: int | None = None


class Bench:
    """A context: everything that was opened is closed at its end."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.results = Results()
        self.group = ""  # that is measured now
        self.failed = False  # kodou itself, which is no matter of the machine
        self._stack = ExitStack()
        self._kodous: dict[tuple[str, bool], Kodou | None] = {}
        self._images: Images | None = None

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def images(self) -> Images:
        if self._images is None:
            self._images = self._stack.enter_context(Images(list(NEW)))
        return self._images

    def kodous(self, *, pools: Iterable[bool] = (True,)) -> list[Kodou]:
        """A server for each backend, with its pools and, if asked for, with empty ones."""
        wanted = [(backend, pool) for backend in self.options.backends for pool in pools]
        return [kodou for key in wanted if (kodou := self._kodou(*key))]

    def _kodou(self, backend: str, pool: bool) -> Kodou | None:
        key = backend, pool
        if key not in self._kodous:
            uid_base = _FIRST_UID + len(self._kodous) * _UIDS_APART
            self._kodous[key] = self.open(self._stack, Kodou(backend, uid_base, pool=pool))
        return self._kodous[key]

    def open(self, stack: ExitStack, subject: Any) -> Any:
        """The subject, open until `stack` ends; None if that cannot be, which is noted with its reason."""
        say(f"  {subject.name}: opening")
        try:
            return stack.enter_context(subject)
        except Exception as exc:  # a peer may fail in any way, and the run goes on without it
            self.miss(subject.name, exc)
            return None

    def opened(self, stack: ExitStack, *subjects: Any) -> list[Any]:
        return [subject for wanted in subjects if (subject := self.open(stack, wanted))]

    def ready(self, subject: str, action: Callable[[], object]) -> bool:
        """Let it do once what is not measured yet; False if it cannot."""
        try:
            action()
        except Exception as exc:  # as above
            self.miss(subject, exc)
            return False
        return True

    def note(self, text: str) -> None:
        if text not in self.results.notes:
            self.results.notes.append(text)

    def miss(self, subject: str, exc: Exception) -> None:
        reason = f"{self.group}: {' '.join(str(exc).split()) or type(exc).__name__}"
        say(f"  {subject}: {reason}")
        self.failed = self.failed or subject.startswith("kodou")
        if (missing := Missing(subject, reason)) not in self.results.missing:
            self.results.missing.append(missing)

    def run(self, series: Sequence[Series]) -> None:
        """All of them in turn, round after round, so that a slow moment of the machine meets all alike."""
        samples: dict[tuple[str, str], list[float]] = {}
        gone: set[str] = set()
        for round_ in range(self.options.rounds):
            for one in series:
                if one.subject in gone or (one.rounds is not None and round_ >= one.rounds):
                    continue
                try:
                    for what, values in one.sample().items():
                        samples.setdefault((what, one.subject), []).extend(values)
                except Exception as exc:  # as above
                    self.miss(one.subject, exc)
                    gone.add(one.subject)
            say(f"  round {round_ + 1} of {self.options.rounds}")
        self.results.figures += [
            Figure.of(what, subject, values) for (what, subject), values in samples.items() if values
        ]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
