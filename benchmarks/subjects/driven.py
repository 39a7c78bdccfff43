"""Peers whose clients need an environment of their own: their driver is another process, asked by lines of JSON."""

import json
import select
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import measures
from benchmarks.peers.venvs import python_of
from benchmarks.processes import tree
from benchmarks.servers import ENVIRONMENT, PEERS
from benchmarks.subjects.interface import CALL_BUDGET_S, Idle, Unavailable

READY_TIMEOUT_S = 180
ANSWER_TIMEOUT_S = 600


class Driven:
    """`venv`: of `peers/<venv>.txt`; `script`: in `peers/`."""

    def __init__(self, name: str, venv: str, script: str, arguments: Sequence[str] = ()) -> None:
        self.name = name
        self._venv, self._script, self._arguments = venv, script, arguments

    def __enter__(self) -> "Driven":
        python = python_of(self._venv)
        self._home = tempfile.TemporaryDirectory(prefix="kodou-bench-")  # peers leave settings and tokens there
        self._errors = Path(self._home.name) / "errors"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(python), str(PEERS / self._script), *self._arguments],
                env=ENVIRONMENT | {"HOME": self._home.name},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
            )
        try:
            self._read(READY_TIMEOUT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._home.cleanup()

    def call(self, count: int) -> list[float]:
        taken: list[float] = self._ask("calls", count, CALL_BUDGET_S)
        return taken

    def start(self) -> float:
        taken: float = self._ask("start")
        return taken

    @contextmanager
    def hold(self, count: int) -> Iterator[list[Idle]]:
        try:
            yield [Idle(frozenset(tree(pid))) for pid in self._ask("hold", count)]
        finally:
            self._ask("release")

    def _ask(self, do: str, *arguments: object) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do, "args": arguments}) + "\n")
        answer = self._read(ANSWER_TIMEOUT_S)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer["value"]

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            said = self._errors.read_text(errors="replace").strip()[-300:]
            msg = f"its driver {'ended' if ready else f'said nothing for {timeout_s} s'}: {said}"
            raise Unavailable(msg)
        answer: dict[str, Any] = json.loads(line)
        return answer


def jupyter() -> Driven:
    return Driven(measures.JUPYTER, "jupyter", "jupyter_gateway.py")


def ray() -> Driven:
    return Driven(measures.RAY, "ray", "ray_actor.py")


def llm_sandbox(image: str) -> Driven:
    return Driven(measures.LLM_SANDBOX, "llm_sandbox", "llm_sandbox_docker.py", [image])


def llm_sandbox_pool(image: str) -> Driven:
    return Driven(measures.LLM_SANDBOX_POOL, "llm_sandbox", "llm_sandbox_docker.py", [image, "pool"])
