"""Many clients over several sessions, each call with a value of its own, while workers die and calls run out of time."""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.drills.crowds import at_once, call_request, leave, until
from tests.servers import Server, Session

CLIENTS_EACH = 4
_PAUSED = "__import__('time').sleep({pause_s}) or {value!r}"
# Some time after the call has been answered, under whoever's call runs then.
_DIE_SOON = "(__import__('threading').Timer({pause_s}, __import__('os')._exit, (3,)).start(), {value!r})[1]"


@dataclass
class Answered:
    """`outcomes` counts replies by kind. `wrong`: each a call's own value and what came in its place."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, object]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, outcome: str) -> None:
        with self.lock:
            self.outcomes[outcome] += 1


def stress(server: Server, *, sessions: int, seconds: float, seed: int, least: int = 0) -> Answered:
    """Call for so many seconds, each client at least so often. What is asked for follows from `seed`; how it interleaves
    does not."""
    answered = Answered()
    opened = [server.session(f"owner{number}") for number in range(sessions)]
    ends = time.monotonic() + seconds

    def work(number: int) -> None:
        rng = random.Random(f"{seed}-{number}")
        session = opened[number % sessions]
        count = 0
        while time.monotonic() < ends or count < least:
            count += 1
            _one(server, session, f"{number}:{count}:{'x' * rng.choice((0, 10, 1000, 100_000))}", rng, answered)

    try:
        at_once(sessions * CLIENTS_EACH, work)
        # They all live on, once what was left behind in them has ended a worker.
        for number, session in enumerate(opened):
            body = until(partial(_answer, session, "operator.add", number, seed), "an answer")
            assert body["value"] == number + seed
    finally:
        for session in opened:
            session.close()
    return answered


def _answer(session: Session, namepath: str, *args: int) -> dict[str, Any] | None:
    """None: an earlier call's death came in between."""
    body: dict[str, Any] = session.post(namepath, *args).json()
    return None if body["error"] else body


def _one(server: Server, session: Session, value: str, rng: random.Random, answered: Answered) -> None:
    pause_s, timeout = rng.uniform(0, 0.03), rng.choice((15, 5000))
    namepath, argument = rng.choices(
        [
            ("str", value),
            ("eval", _PAUSED.format(pause_s=pause_s, value=value)),
            ("eval", _DIE_SOON.format(pause_s=pause_s, value=value)),
            ("eval", "__import__('os')._exit(3)"),
            ("leave", value),
        ],
        weights=[50, 35, 5, 3, 7],
    )[0]
    if namepath == "leave":
        leave(server, call_request(session, "str", f"left:{value}"))
        answered.note("left")
        return
    reply = session.post(namepath, argument, timeout=timeout)
    body = reply.json()
    if reply.status_code == 200 and body["error"] is False:
        answered.note("value")
        if body["value"] != value:
            answered.wrong.append((value[:40], str(body["value"])[:40]))
    else:
        answered.note(f"{reply.status_code} {body['code']}")
