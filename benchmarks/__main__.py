"""Measures kodou beside what its users would otherwise do, all in one run, and writes tables and plots of it."""

import argparse
import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks import document, machine, report
from benchmarks.bench import Bench, Options, say
from benchmarks.figures import Results
from benchmarks.groups import BURST, GROUPS
from benchmarks.targets import BACKENDS


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    if arguments.read:
        results, failed = _read(arguments.read), False
        _write(results, arguments.json)
    else:
        results, failed = _measured(arguments)
    print(report.whole(results))
    if arguments.write_docs:
        document.write(results)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_groups, default=tuple(GROUPS), metavar="A,B", help=f"of: {', '.join(GROUPS)}")
    parser.add_argument(
        "--backend", action="append", choices=[*BACKENDS, "process"], help="default: docker, bubblewrap"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, help="rounds; what takes long is measured in the first few only"
    )
    parser.add_argument("--calls", type=int, default=500, help="calls of one client in a round")
    parser.add_argument("--seconds", type=float, default=1, help="how long many clients call in a round")
    parser.add_argument("--sessions", type=int, default=20, help="idle sessions side by side")
    parser.add_argument("--burst", type=int, default=BURST, help="setups at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--from", dest="read", type=Path, action="append", metavar="FILE", help="measure nothing: these runs' figures"
    )
    parser.add_argument("--write-docs", action="store_true", help="put them into docs/performance.md, with plots")
    return parser.parse_args()


def _groups(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(GROUPS):
        msg = f"no such group: {', '.join(sorted(unknown))}"
        raise argparse.ArgumentTypeError(msg)
    return names


def _read(files: list[Path]) -> Results:
    results = Results()
    for file in files:
        results.add(Results.from_json(json.loads(file.read_text())))
    return results


def _write(results: Results, file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(results.as_json(), indent=1) + "\n")


def _measured(arguments: argparse.Namespace) -> tuple[Results, bool]:
    options = Options(
        backends=tuple(arguments.backend or BACKENDS),
        rounds=arguments.rounds,
        calls=arguments.calls,
        seconds=arguments.seconds,
        sessions=arguments.sessions,
        burst=arguments.burst,
    )
    with Bench(options) as bench:
        bench.results.machine = machine.describe()
        for name in arguments.only:
            say(f"{name}:")
            bench.group = name
            with ExitStack() as stack:
                bench.run(list(GROUPS[name](bench, stack)))
            _write(bench.results, arguments.json)  # a long run that is cut off keeps what it has
        return bench.results, bench.failed


if __name__ == "__main__":
    sys.exit(main())
