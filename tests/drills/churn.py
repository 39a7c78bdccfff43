"""Fault 13: sessions come and go, many at a time, each with one call of its own; and what that leaves on the machine."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from tests.drills.crowds import at_once
from tests.servers import Server, Session

TENTHS = 10


@dataclass(frozen=True)
class Churned:
    """`create_s`: how long each setup took, in the order of their beginnings."""

    create_s: list[float]
    took_s: float

    def p50_p95(self) -> Iterator[tuple[float, float]]:
        """Of each tenth of the run, in seconds."""
        size = len(self.create_s) // TENTHS
        for start in range(0, size * TENTHS, size):
            cuts = quantiles(self.create_s[start : start + size], n=20, method="inclusive")
            yield cuts[9], cuts[18]


def churn(server: Server, sessions: int, at_a_time: int) -> Churned:
    """Set up, call and close `sessions` of them. Raises `AssertionError` for any that does not answer with its own value."""
    numbers, lock = iter(range(sessions)), threading.Lock()
    create_s = [0.0] * sessions
    server.key("churn")
    began = time.monotonic()

    def work(_: int) -> None:
        client = server.client("churn")
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            asked = time.monotonic()
            reply = client.post("/environment/python/setup", content="{}")
            create_s[number] = time.monotonic() - asked
            assert reply.status_code == 200, reply.text
            session = Session(reply.json()["sessionid"], client, reply.json())
            try:
                assert session.value("operator.add", number, sessions) == number + sessions
            finally:
                session.close()

    at_once(at_a_time, work)
    return Churned(create_s, time.monotonic() - began)


def resident_mb(server: Server) -> float:
    """The server's own memory, without its sandboxes'."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 1024
