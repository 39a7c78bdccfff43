"""Several API processes: calls a second with one process and with two workers, and what a call costs each process.

    python -m benchmarks.workers --backend bubblewrap --json workers.json
    scripts/bench --from figures.json --from workers.json --write-docs

Where sandboxes and clients share the processors with the server, more workers cannot make more calls; what a call costs the
owner, the one process that all calls go through, is what bounds a larger machine.
"""

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from benchmarks.figures import Results
from benchmarks.processes import cpu_s, tree
from benchmarks.report import table
from benchmarks.subjects.kodou import Kodou

UID_BASE = 3_200_000
UID_COUNT = 10_000
CLIENTS = 8
SECTION = "workers"


class Measured:
    """One server: calls a second, and microseconds of processor time of a call, by round."""

    def __init__(self, subject: Kodou) -> None:
        self.subject = subject
        self.rates: list[float] = []
        self.owner_us: list[float] = []
        self.workers_us: list[float] = []

    def measure(self, seconds: float) -> None:
        owner = self.subject.server.pid
        workers = [pid for pid in tree(owner) if _is_worker(pid)]
        before = cpu_s([owner]), cpu_s(workers)
        seen = self.subject.crowd(CLIENTS, seconds)
        used = cpu_s([owner]) - before[0], cpu_s(workers) - before[1]
        self.rates.append(seen.rate)
        self.owner_us.append(used[0] / len(seen.seconds) * 1e6)
        self.workers_us.append(used[1] / len(seen.seconds) * 1e6)


def _is_worker(pid: int) -> bool:
    return b"orchestrator.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--backend", default="bubblewrap", choices=["docker", "bubblewrap", "process"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2, help="of each round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there, to be put into the document")
    options = parser.parse_args()
    with ExitStack() as stack:
        found = {}
        for place, workers in enumerate((1, options.workers)):
            subject = Kodou(options.backend, UID_BASE + place * UID_COUNT, workers=workers)
            found[workers] = Measured(stack.enter_context(subject))
            found[workers].measure(1)  # everything is loaded now
            found[workers] = Measured(subject)
        for _ in range(options.rounds):
            for each in found.values():
                each.measure(options.seconds)
    rows = [
        (
            "one process" if workers == 1 else f"{workers} workers",
            f"{median(each.rates):,.0f}",
            f"{median(each.owner_us):.0f} us",
            f"{median(each.workers_us):.0f} us" if workers > 1 else "",
            f"{1e6 / median(each.owner_us):,.0f}",
        )
        for workers, each in found.items()
    ]
    heads = ("", "calls/s", "processor time of a call, owner", "workers", "ceiling of the owner, calls/s")
    how = f"{CLIENTS} clients over {CLIENTS} sessions on {options.backend}, {options.rounds} rounds, medians."
    text = f"{how}\n\n{table(heads, rows)}"
    print(text)
    if options.json:
        options.json.write_text(json.dumps(Results(sections={SECTION: text}).as_json(), indent=1) + "\n")


if __name__ == "__main__":
    main()
