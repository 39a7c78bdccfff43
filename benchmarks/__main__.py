"""Setup cold, setup reused, and warm calls, on each backend, beside the in-process peer; medians and ratios of one run."""

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

from benchmarks.servers import in_process, kodou
from benchmarks.values import SIZES_MB, Floor, LargeValues, plain_rate
from benchmarks.wire import Wire

SUM = [{"moduleName": "numpy"}, {"name": "array", "args": [[2, 4, 6]]}, {"name": "sum"}]
SETUP: dict[str, object] = {"dependencies": ["numpy"]}
# With numpy's wheel in the store, each of these makes an environment that is new but for a file of 11 kB.
NEW = [f"six==1.{minor}.0" for minor in range(10, 18)]


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def first_answer(wire: Wire, setup: dict[str, object]) -> str:
    """Set up and call once; returns the session id."""
    status, reply = wire.json("POST", "/environment/python/setup", setup)
    if status != 200:
        raise RuntimeError(reply)
    sessionid: str = reply["sessionid"]
    status, answer = wire.json("POST", "/environment/python/call", {"sessionid": sessionid, "namepath": SUM})
    if (status, answer["value"]) != (200, 12):
        raise RuntimeError(answer)
    return sessionid


def call_request(wire: Wire, sessionid: str) -> bytes:
    body = json.dumps({"sessionid": sessionid, "namepath": SUM}).encode()
    return wire.request("POST", "/environment/python/call", body)


def crowd(requests: list[tuple[Wire, bytes]], each: int) -> float:
    """Calls per second of as many clients as there are requests, each on a connection of its own."""

    def work(wire: Wire, request: bytes) -> None:
        for _ in range(each):
            wire.send(request)

    threads = [threading.Thread(target=work, args=pair) for pair in requests]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(requests) * each / (time.perf_counter() - began)


class Measured:
    """One kodou server under measurement."""

    def __init__(self, backend: str, port: int, token: str) -> None:
        self.backend = backend
        self._port, self._token = port, token
        self.wire = Wire(port, token)
        self.cold_s = timed(lambda: first_answer(self.wire, SETUP))  # nothing cached: index, wheels, image
        self.sessions = [first_answer(self.wire, SETUP) for _ in range(8)]
        self.request = call_request(self.wire, self.sessions[0])
        self.values = LargeValues(self.wire, self.sessions[0])
        self.new_s: list[float] = []
        self.reused_s: list[float] = []
        self.calls_s: list[float] = []
        self.rates: list[float] = []

    def setup_new(self, another: str) -> None:
        began = time.perf_counter()
        sessionid = first_answer(self.wire, {"dependencies": ["numpy", another]})
        self.new_s.append(time.perf_counter() - began)
        self._end(sessionid)

    def setup_reused(self) -> None:
        began = time.perf_counter()
        sessionid = first_answer(self.wire, SETUP)
        self.reused_s.append(time.perf_counter() - began)
        self._end(sessionid)

    def calls(self, count: int) -> None:
        self.calls_s.extend(timed(lambda: self.wire.send(self.request)) for _ in range(count))

    def crowd(self, each: int) -> None:
        wires = [Wire(self._port, self._token) for _ in self.sessions]
        pairs = [(w, call_request(w, s)) for w, s in zip(wires, self.sessions, strict=True)]
        self.rates.append(crowd(pairs, each))
        for wire in wires:
            wire.close()

    def _end(self, sessionid: str) -> None:
        self.wire.json("DELETE", "/session", {"sessionid": sessionid})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--backend", action="append", choices=["docker", "bubblewrap", "process"], help="default: docker, bubblewrap"
    )
    parser.add_argument("--rounds", type=int, default=10, help="rounds; everything is measured once in each")
    parser.add_argument("--calls", type=int, default=500, help="calls per round and client")
    options = parser.parse_args()
    backends = options.backend or ["docker", "bubblewrap"]

    with ExitStack() as stack:
        peer_port = stack.enter_context(in_process())
        peer = Wire(peer_port)
        peer_request = peer.request("POST", "/sum", b'{"values": [2, 4, 6]}')
        measured = []
        for backend in backends:
            data_dir = Path(tempfile.mkdtemp(prefix="kodou-bench-"))
            data_dir.chmod(0o711)
            stack.callback(shutil.rmtree, data_dir, ignore_errors=True)
            port, token = stack.enter_context(kodou(backend, data_dir))
            measured.append(Measured(backend, port, token))
        floor = Floor()
        stack.callback(floor.close)
        peer_s: list[float] = []
        peer_rates: list[float] = []
        plain: dict[tuple[int, str], list[float]] = {}
        for round_ in range(options.rounds):  # interleaved, so that a slow moment of the machine meets all alike
            peer_s.extend(timed(lambda: peer.send(peer_request)) for _ in range(options.calls))
            wires = [Wire(peer_port) for _ in range(8)]
            peer_rates.append(crowd([(w, peer_request) for w in wires], options.calls // 8))
            for wire in wires:
                wire.close()
            for size in SIZES_MB:
                plain.setdefault((size, "floor"), []).append(plain_rate(floor, size))
                plain.setdefault((size, "peer"), []).append(plain_rate(peer, size))
            for subject in measured:
                subject.values.measure()
                subject.calls(options.calls)
                subject.crowd(options.calls // 8)
                subject.setup_reused()
                if round_ < len(NEW):
                    subject.setup_new(NEW[round_])
        report(measured, peer_s, peer_rates)
        report_values(measured, plain)


def report(measured: list[Measured], peer_s: list[float], peer_rates: list[float]) -> None:
    def ms(values: list[float]) -> str:
        high = quantiles(values, n=100)[98] if len(values) > 1 else values[0]
        return f"{median(values) * 1000:10.2f} {high * 1000:10.2f}"

    print(f"{'':44} {'median':>10} {'p99':>10}   ratio")
    print(f"{'call, in-process FastAPI peer (ms)':44} {ms(peer_s)}    1.00")
    for subject in measured:
        ratio = median(subject.calls_s) / median(peer_s)
        print(f"{f'call, {subject.backend} (ms)':44} {ms(subject.calls_s)}    {ratio:.2f}")
    print(f"{'8 clients, peer (calls/s)':44} {median(peer_rates):10.0f} {'':10}    1.00")
    for subject in measured:
        ratio = median(subject.rates) / median(peer_rates)
        print(
            f"{f'8 clients, 8 sessions, {subject.backend} (calls/s)':44} {median(subject.rates):10.0f} {'':10}    {ratio:.2f}"
        )
    for subject in measured:
        print(f"{f'setup cold, to first answer, {subject.backend} (ms)':44} {subject.cold_s * 1000:10.0f}")
        print(f"{f'new, numpy wheel in store, {subject.backend} (ms)':44} {ms(subject.new_s)}")
        print(f"{f'setup reused, to first answer, {subject.backend} (ms)':44} {ms(subject.reused_s)}")


def report_values(measured: list[Measured], plain: dict[tuple[int, str], list[float]]) -> None:
    """Megabytes a second there and back, and how many times the floor that is."""
    for size in SIZES_MB:
        floor = median(plain[size, "floor"])
        rows = {"floor, JSON over a Unix socket": floor, "in-process FastAPI peer, JSON": median(plain[size, "peer"])}
        for subject in measured:
            for form in ("JSON", "bytes"):
                rows[f"{subject.backend}, {form}"] = median(subject.values.rates[size, form])
        for name, rate in rows.items():
            print(f"{f'{size} MB of floats, {name} (MB/s)':54} {rate:10.0f}    {rate / floor:.2f}")


if __name__ == "__main__":
    main()
