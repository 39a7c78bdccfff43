"""The measures there are: what each is called, its unit, and what stands beside it."""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["s", "calls/s", "MB/s", "B", "%"]

# Subjects that others are compared with. What runs nowhere else than in a group is named there.
FLOOR = "Unix-socket floor"
FASTAPI = "FastAPI endpoint (def)"
FASTAPI_ASYNC = "FastAPI endpoint (async def)"
CONTAINER = "locked-down container"
DOCKER_RUN = "docker run"
DOCKER_EXEC = "docker exec"
DOCKER_BUILD = "docker build with pip"
UV = "uv into a venv"
JUPYTER = "Jupyter Kernel Gateway"
RAY = "Ray actor"
LLM_SANDBOX = "llm-sandbox"
LLM_SANDBOX_POOL = "llm-sandbox, pool"
FORK = "fork of a preloaded process"
INTERPRETER = "new interpreter"


def kodou_name(backend: str, *, pool: bool = True) -> str:
    return f"kodou, {backend}" if pool else f"kodou, {backend}, empty pool"


@dataclass(frozen=True, slots=True)
class Measure:
    """`group`: what it is measured with (`groups.py`). `beside`: the subject that ratios are taken against, if any."""

    what: str
    group: str
    title: str
    unit: Unit
    beside: str

    @property
    def more_is_better(self) -> bool:
        return self.unit in ("calls/s", "MB/s")


MEASURES = (
    Measure("call", "calls", "Warm call, 1 client", "s", FASTAPI),
    Measure("crowd-8", "crowds", "Warm calls, 8 clients over 8 sessions", "calls/s", FASTAPI),
    Measure("crowd-32", "crowds", "Warm calls, 32 clients over 8 sessions", "calls/s", FASTAPI),
    Measure("crowd-8-latency", "crowds", "One of those calls, 8 clients", "s", FASTAPI),
    Measure("crowd-32-latency", "crowds", "One of those calls, 32 clients", "s", FASTAPI),
    Measure("json-1", "values", "1 MB of floats as JSON, there and back", "MB/s", FLOOR),
    Measure("json-10", "values", "10 MB of floats as JSON, there and back", "MB/s", FLOOR),
    Measure("bytes-1", "values", "1 MB as raw bytes, there and back", "MB/s", FLOOR),
    Measure("bytes-10", "values", "10 MB as raw bytes, there and back", "MB/s", FLOOR),
    Measure("setup", "setups", "New session with numpy on a known environment, to the first answer", "s", CONTAINER),
    Measure("burst", "burst", "50 setups at once on a known environment, to the last first answer", "s", CONTAINER),
    Measure("cold", "environments", "Nothing cached (index, wheels, environment), to the first answer", "s", ""),
    Measure("new", "environments", "New environment, wheels cached, to the first answer", "s", UV),
    Measure("memory", "memory", "Memory of an idle session with numpy (PSS of its processes)", "B", CONTAINER),
    Measure("memory-all", "memory", "The same with the engine's process beside each container", "B", CONTAINER),
    Measure("idle-cpu", "memory", "Processor time of an idle session, of one core", "%", CONTAINER),
    Measure("restart", "timeouts", "From a deadline to the next answer with numpy", "s", INTERPRETER),
)
GROUPS = tuple(dict.fromkeys(measure.group for measure in MEASURES))
