"""A server under load for long: latency, memory, descriptors at 80 % of its peak; and what it does when asked for too much.

python -m benchmarks.soak --backend bubblewrap --minutes 10 --json soak.json
scripts/bench --from figures.json --from soak.json --write-docs
"""

import argparse
import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.figures import Results, percentile
from benchmarks.paced import Sample, paced
from benchmarks.report import table
from benchmarks.subjects.kodou import NUMPY, SETUP_PATH, Kodou
from benchmarks.wire import Wire

UID_BASE = 3_000_000
CHURN_S = 5.0
OVERLOAD_CLIENTS = 48  # of each session, which lets fewer wait
SETUPS = 120
SECTION = "soak"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of the server's process."""

    rss_bytes: int
    descriptors: int
    threads: int


def usage(pid: int) -> Usage:
    process = Path("/proc") / str(pid)
    return Usage(
        int((process / "statm").read_text().split()[1]) * _PAGE_BYTES,
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
    )


@contextmanager
def watched(pid: int, every_s: float) -> Iterator[list[Usage]]:
    """What the process uses meanwhile, now and then."""
    told: list[Usage] = []
    with _meanwhile(every_s, lambda: told.append(usage(pid))):
        yield told


@contextmanager
def churning(subject: Kodou) -> Iterator[list[float]]:
    """Sessions that come and go meanwhile; the seconds from each setup to its first answer."""
    took: list[float] = []
    with closing(Wire(subject.server.port, subject.server.token)) as wire:

        def churn() -> None:
            began = time.perf_counter()
            sessionid = subject.first_answer(wire, NUMPY)
            took.append(time.perf_counter() - began)
            wire.json("DELETE", "/session", {"sessionid": sessionid})

        with _meanwhile(CHURN_S, churn):
            yield took


@contextmanager
def _meanwhile(every_s: float, work: Callable[[], object]) -> Iterator[None]:
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(every_s):
            work()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def tenths(samples: list[Sample], duration_s: float) -> list[list[float]]:
    """The seconds that requests took, by the tenth of the time in which they were due."""
    parts: list[list[float]] = [[] for _ in range(10)]
    for sample in samples:
        parts[min(9, int(sample.due_s / duration_s * 10))].append(sample.took_s)
    return parts


def load(subject: Kodou, clients: int, per_s: float, duration_s: float) -> list[Sample]:
    """`clients` of each session."""
    requests = [subject.request(sessionid) for sessionid in subject.sessions()] * clients
    return paced(subject.server.port, requests, per_s, duration_s)


def peak(subject: Kodou, duration_s: float) -> float:
    """Calls a second, one client a session, as fast as they can."""
    return len(load(subject, 1, math.inf, duration_s)) / duration_s


def soak(subject: Kodou, per_s: float, duration_s: float) -> str:
    with watched(subject.server.pid, duration_s / 60) as used, churning(subject) as setups:
        samples = load(subject, 2, per_s, duration_s)
    parts = tenths(samples, duration_s)
    usages = [used[int(len(used) * tenth / 10) : int(len(used) * (tenth + 1) / 10)] or used[-1:] for tenth in range(10)]
    rows = [
        (
            f"{tenth + 1}",
            f"{len(part):,}",
            f"{median(part) * 1000:.2f} ms",
            f"{percentile(part, 99) * 1000:.1f} ms",
            f"{median(each.rss_bytes for each in usages[tenth]) / 1e6:.1f} MB",
            f"{median(each.descriptors for each in usages[tenth]):.0f}",
            f"{median(each.threads for each in usages[tenth]):.0f}",
        )
        for tenth, part in enumerate(parts)
        if part
    ]
    heads = ("tenth", "calls", "median", "p99", "server's memory", "descriptors", "threads")
    text = f"{duration_s / 60:g} minutes at {per_s:,.0f} calls/s; meanwhile {len(setups)} sessions came and went"
    if setups:
        half = len(setups) // 2 or 1
        first, last = median(setups[:half]), median(setups[-half:])
        text += f" (setup to first answer {first * 1000:.0f} ms in the first half, {last * 1000:.0f} in the second)"
    return f"{text}. Answers: {_answers(samples)}.\n\n{table(heads, rows)}"


def overload(subject: Kodou, duration_s: float) -> str:
    """Twice what it can, by more clients than sessions let wait; then as before."""
    before = peak(subject, 5)
    with watched(subject.server.pid, 0.5) as used:
        samples = load(subject, OVERLOAD_CLIENTS, 2 * before, duration_s)
    after = peak(subject, 5)
    good = sum(sample.status == 200 for sample in samples) / duration_s
    return (
        f"Asked for twice its peak by {len(subject.sessions()) * OVERLOAD_CLIENTS} clients for {duration_s:g} s, it answered"
        f" {good / before:.2f} x its peak with results, and the rest with refusals: {_answers(samples)}. Its memory came to"
        f" {max(each.rss_bytes for each in used) / 1e6:.0f} MB; afterwards it did {after / before:.2f} x its peak again."
    )


def setups(subject: Kodou, count: int) -> str:
    """Setups of the same environment, all at once."""
    body = json.dumps(NUMPY).encode()
    samples: list[Sample] = []

    def ask() -> None:
        with closing(Wire(subject.server.port, subject.server.token)) as wire:
            began = time.perf_counter()
            status, reply = wire.send(wire.request("POST", SETUP_PATH, body))
            samples.append(Sample(0, took := time.perf_counter() - began, took, status))
            with suppress(KeyError):
                subject.end(json.loads(reply)["sessionid"])

    askers = [threading.Thread(target=ask) for _ in range(count)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    return f"{count} setups at once: {_answers(samples)}."


def _answers(samples: list[Sample]) -> str:
    """Of each status how many, with median and slowest, from when they were sent."""
    texts = []
    for status, count in sorted(Counter(sample.status for sample in samples).items()):
        took = [sample.answered_s * 1000 for sample in samples if sample.status == status]
        name = f"`{status}`" if status else "cut off"
        texts.append(f"{count:,} {name} (median {median(took):.3g} ms, slowest {max(took):.3g} ms)")
    return ", ".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--backend", default="bubblewrap", choices=["docker", "bubblewrap", "process"])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--share", type=float, default=0.8, help="of the peak")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there, to be put into the document")
    options = parser.parse_args()

    with Kodou(options.backend, UID_BASE) as subject:
        peak(subject, 3)  # everything is loaded now
        most = peak(subject, 10)
        soaked = soak(subject, most * options.share, options.minutes * 60)
        texts = [
            f"On {options.backend}, whose peak was {most:,.0f} calls/s: {soaked}",
            overload(subject, 15),
            setups(subject, SETUPS),
        ]
    text = "\n\n".join(texts)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(Results(sections={SECTION: text}).as_json(), indent=1) + "\n")


if __name__ == "__main__":
    main()
