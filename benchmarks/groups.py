"""What is measured together: each group opens its subjects, and says what each is asked in a round."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks import values
from benchmarks.bench import NEW, Bench, Series
from benchmarks.measures import kodou_name
from benchmarks.processes import cpu_s, pss_bytes
from benchmarks.subjects import driven
from benchmarks.subjects.containers import Container, DockerBuild, DockerExec, DockerRun
from benchmarks.subjects.fastapi import FastApi, fastapi_async
from benchmarks.subjects.floor import Floor, Interpreter
from benchmarks.subjects.interface import Held
from benchmarks.subjects.kodou import Kodou
from benchmarks.subjects.uv import Uv

CROWDS = (8, 32)
BURST = 50  # as its title says
BURST_ROUNDS = 3
DOCKER_BUILD_ROUNDS = 5
RESTARTS = 5  # in a round
PEER_SESSIONS = 20  # of peers at most, whose sessions are far larger
IDLE_S = 5.0
SETTLE_S = 1.5  # for what a session's start and end leave behind: the next one's measure is not to pay for it


def calls(bench: Bench, stack: ExitStack) -> Iterator[Series]:
    """One client, one call after another."""
    peers = bench.opened(
        stack,
        Floor("sum"),
        FastApi(),
        fastapi_async(),
        driven.ray(),
        driven.jupyter(),
        DockerExec(bench.images),
        *_on_image(bench, driven.llm_sandbox),
    )
    for subject in [*peers, *bench.kodous()]:
        yield Series(subject.name, partial(_of, "call", partial(subject.call, bench.options.calls)))


def crowds(bench: Bench, stack: ExitStack) -> Iterator[Series]:
    """Many clients, each as fast as it is answered."""

    def sample(subject: Any, clients: int) -> dict[str, Any]:
        seen = subject.crowd(clients, bench.options.seconds)
        return {f"crowd-{clients}": [seen.rate], f"crowd-{clients}-latency": seen.seconds}

    subjects = [*bench.opened(stack, FastApi(), fastapi_async()), *bench.kodous()]
    for clients in CROWDS:
        for subject in subjects:
            yield Series(subject.name, partial(sample, subject, clients))


def large_values(bench: Bench, stack: ExitStack) -> Iterator[Series]:
    """Floats there and back."""
    for subject, send in (
        (s, getattr(s, "echo", None) or s.send) for s in bench.opened(stack, Floor("same"), FastApi())
    ):
        yield Series(subject.name, partial(values.plain, send))
    for kodou in bench.kodous():
        yield Series(kodou.name, values.LargeValues(kodou.wire, kodou.sessions()[0]).measure)


def setups(bench: Bench, stack: ExitStack) -> Iterator[Series]:
    """New sessions on a known environment, one after another."""
    peers = bench.opened(
        stack,
        Container(bench.images),
        DockerRun(bench.images),
        *_on_image(bench, driven.llm_sandbox),
        *_on_image(bench, driven.llm_sandbox_pool),
        driven.ray(),
        driven.jupyter(),
    )
    peers = [peer for peer in peers if bench.ready(peer.name, peer.start)]  # as kodou's servers are: not the very first
    kodous = bench.kodous(pools=(True, False))
    for subject in [*peers, *kodous]:
        yield Series(subject.name, partial(_of, "setup", partial(_once, subject.start)))
    for kodou in kodous:
        kodou.claims.clear()
    stack.callback(_note_claims, bench, kodous, "one after another")


def burst(bench: Bench, stack: ExitStack) -> Iterator[Series]:
    """Many setups at once on a known environment: the time of the last first answer."""
    if bench.options.burst != BURST:
        bench.note(f"Of setups at once there were {bench.options.burst}, not {BURST}.")
    kodous = bench.kodous(pools=(True, False))
    for subject in [*bench.opened(stack, Container(bench.images)), *kodous]:
        yield Series(subject.name, partial(_last, subject.burst, bench.options.burst), rounds=BURST_ROUNDS)
    for kodou in kodous:
        kodou.claims.clear()
    stack.callback(_note_claims, bench, kodous, f"{bench.options.burst} at once")


def environments(bench: Bench, stack: ExitStack) -> Iterator[Series]:
    """Environments that are new, all wheels at hand."""
    kodous = bench.kodous()
    for kodou in kodous:
        yield Series(kodou.name, partial(_of, "cold", partial(_constant, kodou.cold_s)), rounds=1)
    for subject in bench.opened(stack, Uv(list(NEW)), DockerBuild(bench.images)):
        rounds = DOCKER_BUILD_ROUNDS if isinstance(subject, DockerBuild) else len(NEW)
        yield Series(subject.name, _each(subject.new), rounds=rounds)
    for kodou in kodous:
        yield Series(kodou.name, _each(kodou.new), rounds=len(NEW))


def memory(bench: Bench, stack: ExitStack) -> Iterator[Series]:
    """Idle sessions side by side: what they hold, and what they do though nobody asks."""
    count = bench.options.sessions
    peers = bench.opened(stack, Container(bench.images), driven.ray(), driven.jupyter())
    for subject in peers:
        yield Series(subject.name, partial(_idle, subject, min(count, PEER_SESSIONS)), rounds=1)
    for kodou in bench.kodous(pools=(False,)):  # else warm ones, which nobody has, would be among them
        yield Series(kodou_name(kodou.backend), partial(_idle, kodou, count), rounds=1)


def timeouts(bench: Bench, stack: ExitStack) -> Iterator[Series]:
    """How soon there is a fresh worker."""
    for subject in [*bench.opened(stack, Floor("fork"), Interpreter()), *bench.kodous()]:
        yield Series(subject.name, partial(_of, "restart", partial(_several, subject.restart, RESTARTS)))


GROUPS: dict[str, Callable[[Bench, ExitStack], Iterator[Series]]] = {
    "calls": calls,
    "crowds": crowds,
    "values": large_values,
    "setups": setups,
    "burst": burst,
    "environments": environments,
    "memory": memory,
    "timeouts": timeouts,
}


def _of(what: str, sample: Callable[[], list[float]]) -> dict[str, list[float]]:
    return {what: sample()}


def _once(action: Callable[[], float]) -> list[float]:
    taken = action()
    time.sleep(SETTLE_S)
    return [taken]


def _constant(value: float) -> list[float]:
    return [value]


def _several(action: Callable[[], float], count: int) -> list[float]:
    return [action() for _ in range(count)]


def _last(action: Callable[[int], list[float]], count: int) -> dict[str, list[float]]:
    return {"burst": [max(action(count))]}


def _each(new: Callable[[str], float]) -> Callable[[], dict[str, list[float]]]:
    """One new environment a round."""
    others = iter(NEW)
    return lambda: {"new": [new(next(others))]}


def _idle(subject: Held, count: int) -> dict[str, list[float]]:
    with subject.hold(count) as sessions:
        time.sleep(1)  # what ends a session's start is over
        everything = [pid for idle in sessions for pid in idle.pids | idle.engine_pids]
        before, began = cpu_s(everything), time.perf_counter()
        time.sleep(IDLE_S)
        share = (cpu_s(everything) - before) / (time.perf_counter() - began) / len(sessions)
        return {
            "memory": [pss_bytes(idle.pids) for idle in sessions],
            "memory-all": [pss_bytes(idle.pids | idle.engine_pids) for idle in sessions],
            "idle-cpu": [share * 100],
        }


def _on_image(bench: Bench, make: Callable[[str], driven.Driven]) -> list[driven.Driven]:
    """A peer on the image with numpy, if that can be made."""
    try:
        return [make(bench.images.numpy())]
    except Exception as exc:  # as in `Bench`
        bench.miss(make("").name, exc)
        return []


def _note_claims(bench: Bench, kodous: list[Kodou], how: str) -> None:
    for kodou in kodous:
        said = json.dumps(dict(kodou.claims))
        bench.results.notes.append(
            f"{kodou.name}, setups {how}: had to be made first, by the server's own word: {said}"
        )
