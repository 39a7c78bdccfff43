"""kodou itself: one server on one backend, with its warm pools or without."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import mkdtemp

from benchmarks.load import Crowd, crowd
from benchmarks.measures import kodou_name
from benchmarks.processes import of_users, outermost, parent
from benchmarks.servers import Server, kodou
from benchmarks.subjects.interface import ANSWER, FUNCTION, Idle, at_once, repeated, timed
from benchmarks.wire import Wire

SETUP_PATH, CALL_PATH = "/environment/python/setup", "/environment/python/call"
NUMPY: dict[str, object] = {"dependencies": ["numpy"]}
CROWD_SESSIONS = 8
DEADLINE_MS = 100
_UID_COUNT = 10_000
_SLEEP = [{"moduleName": "time"}, {"name": "sleep", "args": [60]}]


class Kodou:
    """`uid_base`: first of the user ids of this server's sandboxes, by which their processes are found."""

    def __init__(self, backend: str, uid_base: int, *, pool: bool = True, workers: int = 1) -> None:
        self.backend, self.pool = backend, pool
        self.name = kodou_name(backend, pool=pool)
        self.claims: Counter[str] = Counter()  # what setups on a known environment had to make first
        self._uid_base = uid_base
        self._workers = workers
        self._warm: list[str] = []

    def __enter__(self) -> "Kodou":
        settings = {"KODOU_SANDBOX_UID_BASE": str(self._uid_base), "KODOU_SANDBOX_UID_COUNT": str(_UID_COUNT)}
        if self._workers > 1:
            settings["KODOU_WORKERS"] = str(self._workers)
        if not self.pool:
            settings["KODOU_POOL_MEMORY_MB"] = "0"
        with ExitStack() as stack:
            data_dir = Path(mkdtemp(prefix="kodou-bench-"))
            data_dir.chmod(0o711)
            stack.callback(shutil.rmtree, data_dir, ignore_errors=True)
            self.server: Server = stack.enter_context(kodou(self.backend, data_dir, settings=settings))
            self.wire = Wire(self.server.port, self.server.token)
            stack.callback(self.wire.close)
            self.cold_s = timed(lambda: self.end(self.first_answer(self.wire, NUMPY)))  # nothing cached
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def first_answer(self, wire: Wire, setup: dict[str, object]) -> str:
        """Set up and call once; returns the session id."""
        status, reply = wire.json("POST", SETUP_PATH, setup)
        if status != 200:
            raise RuntimeError(reply)
        self.claims[wire.header("kodou-cold") or "unsaid"] += 1
        sessionid: str = reply["sessionid"]
        status, answer = wire.json("POST", CALL_PATH, {"sessionid": sessionid, "namepath": FUNCTION})
        if (status, answer.get("value")) != (200, ANSWER):
            raise RuntimeError(answer)
        return sessionid

    def end(self, sessionid: str) -> None:
        self.wire.json("DELETE", "/session", {"sessionid": sessionid})

    def request(self, sessionid: str, namepath: object = FUNCTION, **members: object) -> bytes:
        body = json.dumps({"sessionid": sessionid, "namepath": namepath, **members}).encode()
        return self.wire.request("POST", CALL_PATH, body)

    def sessions(self) -> list[str]:
        """Those that calls go to: made once, warm."""
        while len(self._warm) < CROWD_SESSIONS:
            self._warm.append(self.first_answer(self.wire, NUMPY))
        return self._warm

    def call(self, count: int) -> list[float]:
        request = self.request(self.sessions()[0])
        return repeated(lambda: self.wire.send(request), count)

    def crowd(self, clients: int, seconds: float) -> Crowd:
        sessions = self.sessions()
        requests = [self.request(sessions[place % len(sessions)]) for place in range(clients)]
        return crowd(self.server.port, requests, seconds)

    def start(self) -> float:
        return self._timed_setup(NUMPY)

    def new(self, another: str) -> float:
        return self._timed_setup({"dependencies": ["numpy", another]})

    def _timed_setup(self, setup: dict[str, object]) -> float:
        began = time.perf_counter()
        sessionid = self.first_answer(self.wire, setup)
        taken = time.perf_counter() - began
        self.end(sessionid)
        return taken

    def burst(self, count: int) -> list[float]:
        """Seconds to each first answer of so many setups at once, each on a connection of its own."""
        made: list[str] = []

        def one() -> None:
            with closing(Wire(self.server.port, self.server.token)) as wire:
                made.append(self.first_answer(wire, NUMPY))

        try:
            return at_once(one, count)
        finally:
            for sessionid in made:
                self.end(sessionid)

    @contextmanager
    def hold(self, count: int) -> Iterator[list[Idle]]:
        before = set(of_users(self._uid_base, _UID_COUNT))
        made = [self.first_answer(self.wire, NUMPY) for _ in range(count)]
        try:
            found = of_users(self._uid_base, _UID_COUNT)
            yield [self._idle(pids) for uid, pids in found.items() if uid not in before]
        finally:
            for sessionid in made:
                self.end(sessionid)

    def _idle(self, pids: set[int]) -> Idle:
        """On docker a process of the engine's waits beside each container; on bubblewrap that is within."""
        beside = {parent(pid) for pid in outermost(pids)} if self.backend == "docker" else set()
        return Idle(frozenset(pids), frozenset(beside))

    def restart(self) -> float:
        """Seconds from a call's deadline to the answer of the next."""
        sessionid = self.sessions()[0]
        slow = self.request(sessionid, _SLEEP, timeout=DEADLINE_MS)
        began = time.perf_counter()
        _, reply = self.wire.send(slow)
        if b"timeout" not in reply:
            raise RuntimeError(reply[:300])
        _, reply = self.wire.send(self.request(sessionid))
        taken = time.perf_counter() - began
        if json.loads(reply).get("value") != ANSWER:
            raise RuntimeError(reply[:300])
        return taken - DEADLINE_MS / 1000
