"""Many idle sessions on one machine: the memory of each, idle processor time, and what freezing them changes.

    python -m benchmarks.density --backend bubblewrap --sessions 200

Each session has called numpy once. Memory is PSS: what a page costs is shared among all that map it. Some sessions leave a
thread behind that wakes a thousand times a second, as a library's may: idle as the server sees it, but not at rest.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from benchmarks.processes import pss_bytes
from benchmarks.servers import ENVIRONMENT, KODOU, free_port, wait_for
from benchmarks.wire import Wire

SUM = [{"moduleName": "numpy"}, {"name": "array", "args": [[2, 4, 6]]}, {"name": "sum"}]
TICKING = "import threading, time; threading.Thread(target=lambda: [time.sleep(0.001) for _ in iter(int, 1)]).start()"
SETUP: dict[str, object] = {"dependencies": ["numpy"]}
ENGINE = ("dockerd", "containerd")
MB = 1024 * 1024
WATCHED_S = 10.0
PATIENCE_S = 600.0
SETTLE_S = 3.0  # for what the last setup left to do


class Host:
    """The processes of one server and its sandboxes, by what they are."""

    def __init__(self, backend: str, data_dir: Path) -> None:
        self._backend = backend
        self._data_dir = data_dir

    def processes(self) -> dict[str, list[int]]:
        """Process ids of the server and the engine; of sandboxes that sessions have: process 1, what is below it, and what
        the backend keeps beside each."""
        parents = _parents()
        children = defaultdict(list)
        for pid, parent in parents.items():
            children[parent].append(pid)
        found = defaultdict(list)
        found["server"] = [int(json.loads((self._data_dir / "server.json").read_text())["pid"])]
        if self._backend == "docker":
            found["engine"] = [pid for pid in parents if _command(pid) in ENGINE]
        for first in self._first():
            found["supervisor"].append(first)
            found["worker"] += children[first]
            found["shim" if self._backend == "docker" else "bwrap"].append(parents[first])
        return dict(found)

    def _first(self) -> list[int]:
        if self._backend == "docker":
            names = [f"kodou-{path.name}" for path in (self._data_dir / "run").iterdir()]
            command = ["docker", "inspect", "--format", "{{.State.Pid}}", *names]
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            return [int(line) for line in told.stdout.split()] if names else []
        handles = (self._data_dir / "handles" / self._backend).glob("*.json")
        return [int(json.loads(path.read_text())["data"]["pid"]) for path in handles]


class Kodou:
    """A server whose sandboxes outlive it, so that another with other settings can take them up."""

    def __init__(self, backend: str, data_dir: Path) -> None:
        self._backend = backend
        self._own = ENVIRONMENT | {
            "KODOU_DATA_DIR": str(data_dir),
            "KODOU_MAX_SESSIONS": "5000",
            "KODOU_MAX_SESSIONS_PER_OWNER": "5000",
            "KODOU_SETUPS_PER_S": "1000000",
            "KODOU_LOG_LEVEL": "warning",
            "KODOU_POOL_MEMORY_MB": "0",  # else sandboxes that no session has would be among them
        }
        made = subprocess.run(
            [KODOU, "keys", "create", "bench"], env=self._own, check=True, capture_output=True, text=True
        )
        self._token = made.stdout.strip().splitlines()[-1]

    @contextmanager
    def serving(self, **settings: str) -> Iterator[Wire]:
        port = free_port()
        command = [KODOU, "serve", "--backend", self._backend, "--port", str(port)]
        process = subprocess.Popen(command, env=self._own | settings)
        try:
            wait_for(port, process)
            yield Wire(port, self._token)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)

    def clear(self) -> None:
        """Remove sandboxes and images."""
        for command in (["sessions", "stop", "--all"], ["images", "prune", "--all", "--yes"]):
            backend = ["--backend", self._backend] if command[0] == "images" else []
            subprocess.run([KODOU, *command, *backend], env=self._own, check=False, capture_output=True)


def metric(wire: Wire, name: str) -> float:
    _, body = wire.send(wire.request("GET", "/metrics"))
    return next(float(line.split()[1]) for line in body.decode().splitlines() if line.startswith(f"{name} "))


def until(wire: Wire, name: str, least: float) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while metric(wire, name) < least:
        if time.monotonic() > deadline:
            msg = f"{name} did not come to {least:g}"
            raise TimeoutError(msg)
        time.sleep(0.05)


def opened(wire: Wire) -> str:
    """A session id."""
    status, reply = wire.json("POST", "/environment/python/setup", SETUP)
    if status != 200:
        raise RuntimeError(reply)
    sessionid: str = reply["sessionid"]
    return sessionid


def called(wire: Wire, sessionid: str, namepath: object, *args: object) -> object:
    body = {"sessionid": sessionid, "namepath": namepath, "args": args}
    status, reply = wire.json("POST", "/environment/python/call", body)
    if status != 200 or reply["error"]:
        raise RuntimeError(reply)
    value: object = reply["value"]
    return value


def timed_sums(wire: Wire, sessions: Iterable[str]) -> list[float]:
    """Milliseconds of a call in each."""
    took = []
    for sessionid in sessions:
        began = time.perf_counter()
        called(wire, sessionid, SUM)
        took.append((time.perf_counter() - began) * 1000)
    return took


def pss_mb(pids: Iterable[int]) -> float:
    return pss_bytes(pids) / MB


def processor_ms(pids: Iterable[int]) -> float:
    total = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(path.read_text().split()[0])
            except OSError:  # a thread that ended
                continue
    return total / 1e6


def idle_ms(groups: dict[str, list[int]]) -> dict[str, float]:
    """Milliseconds of processor time that each group takes in ten seconds without a request."""
    before = {name: processor_ms(pids) for name, pids in groups.items()}
    time.sleep(WATCHED_S)
    return {name: max(processor_ms(pids) - before[name], 0.0) for name, pids in groups.items()}


def measured(backend: str, count: int, restless: int) -> dict[str, object]:
    """All figures of one backend."""
    data_dir = Path(tempfile.mkdtemp(prefix="kodou-density-"))
    data_dir.chmod(0o711)
    server = Kodou(backend, data_dir)
    host = Host(backend, data_dir)
    figures: dict[str, object] = {"backend": backend, "sessions": count, "restless": restless}
    try:
        with server.serving() as wire:
            sessions = [opened(wire)]  # the environment is built, whatever grows once has grown
            called(wire, sessions[0], SUM)
            time.sleep(SETTLE_S)
            first = host.processes()
            own_mb, engine_mb = pss_mb(first["server"]), pss_mb(first.get("engine", []))
            descriptors = _descriptors(first["server"][0])
            figures["server alone, ms in 10 s"] = idle_ms({"server": first["server"]})["server"]
            for _ in range(count - 1):
                sessions.append(opened(wire))
                called(wire, sessions[-1], SUM)
            time.sleep(SETTLE_S)
            groups = host.processes()
            each = {name: pss_mb(pids) / count for name, pids in groups.items() if name not in ("server", "engine")}
            figures["MB of a session"] = each | {
                "server": (pss_mb(groups["server"]) - own_mb) / (count - 1),
                "engine": (pss_mb(groups.get("engine", [])) - engine_mb) / (count - 1),
            }
            figures["descriptors of a session"] = (_descriptors(groups["server"][0]) - descriptors) / (count - 1)
            figures["idle, ms in 10 s"] = idle_ms(groups)
            for sessionid in sessions[:restless]:
                called(wire, sessionid, ["exec"], TICKING, {})
            figures["restless, ms in 10 s"] = idle_ms(groups)
        began = time.perf_counter()
        with server.serving(KODOU_FREEZE_IDLE_S="0.5", KODOU_REAP_INTERVAL_S="1") as wire:
            figures["s to take them up"] = time.perf_counter() - began
            until(wire, "kodou_frozen_sandboxes", count)
            time.sleep(SETTLE_S)
            figures["frozen, ms in 10 s"] = idle_ms(host.processes())
            thawing, next_ones = [], []
            for sessionid in sessions:
                thawing += timed_sums(wire, [sessionid])
                next_ones += timed_sums(wire, [sessionid])
            figures["ms of a call that thaws"] = _spread(thawing)
            figures["ms of the next call"] = _spread(next_ones)
    finally:
        server.clear()
        shutil.rmtree(data_dir, ignore_errors=True)
    return figures


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "p99": quantiles(values, n=100)[98]}


def _parents() -> dict[int, int]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def report(figures: dict[str, object]) -> None:
    """A table."""
    print(f"{figures['backend']}: {figures['sessions']} sessions, {figures['restless']} of them restless in the end")
    for name, value in figures.items():
        if isinstance(value, dict):
            print(f"  {name:28} " + ", ".join(f"{part} {amount:.2f}" for part, amount in value.items()))
        elif isinstance(value, float):
            print(f"  {name:28} {value:.2f}")
    each = figures["MB of a session"]
    if isinstance(each, dict):
        print(f"  {'MB of its own processes':28} {each['supervisor'] + each['worker'] + each.get('bwrap', 0.0):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.density", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", action="append", choices=["docker", "bubblewrap"], help="default: docker, bubblewrap"
    )
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--restless", type=int, default=20, help="how many leave a thread behind")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    options = parser.parse_args()
    found = []
    for backend in options.backend or ["docker", "bubblewrap"]:
        found.append(measured(backend, options.sessions, options.restless))
        if not options.json:
            report(found[-1])
    if options.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
