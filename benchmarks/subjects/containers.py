"""Containers without kodou: one as locked down as kodou's, by the engine's API, and what the docker command line gives."""

import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp

import docker

from benchmarks import measures
from benchmarks.processes import parent, tree
from benchmarks.servers import ENVIRONMENT
from benchmarks.subjects.images import INSTALL, Images, build, remove, run
from benchmarks.subjects.interface import PROGRAM, Idle, at_once, checked, repeated, timed

START_TIMEOUT_S = 120
_MB = 1024 * 1024
_LABEL = "io.kodou.bench"
# As a runner does: connect, import, answer. Then wait for the end.
_ANSWER = """
import socket
connection = socket.socket(socket.AF_UNIX)
connection.connect("/run/bench/link")
import json, numpy
call = json.loads(connection.recv(65536))
connection.sendall(json.dumps(int(numpy.array(call).sum())).encode())
connection.recv(1)
"""
# The limits that kodou sets by default, for the command line.
_OPTIONS = (
    *("--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "512m", "--memory-swap", "512m", "--pids-limit", "128", "--cpus", "1"),
    *("--user", "10002:10002", "--tmpfs", "/tmp:rw,nosuid,nodev,size=256m", "--log-driver", "none"),
    *("--env", "OMP_NUM_THREADS=1", "--env", "OPENBLAS_NUM_THREADS=1"),
)


class Container:
    """The floor of a start: create and start by the engine's API with kodou's limits, until the function has answered."""

    name = measures.CONTAINER

    def __init__(self, images: Images) -> None:
        self._images = images

    def __enter__(self) -> "Container":
        self._image = self._images.numpy()
        self._engine = docker.APIClient(version="auto", timeout=START_TIMEOUT_S, num_pools=64)
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def start(self) -> float:
        with ExitStack() as stack:
            return timed(lambda: self._answered(stack))

    def burst(self, count: int) -> list[float]:
        """Seconds to each first answer of so many that are wanted at once."""
        with ExitStack() as stack:
            return at_once(lambda: self._answered(stack), count)

    @contextmanager
    def hold(self, count: int) -> Iterator[list[Idle]]:
        with ExitStack() as stack:
            pids = [self._engine.inspect_container(self._answered(stack))["State"]["Pid"] for _ in range(count)]
            yield [Idle(frozenset(tree(pid)), frozenset({parent(pid)})) for pid in pids]

    def _answered(self, stack: ExitStack) -> str:
        """The id of a new container that has answered; `stack` removes it."""
        directory = Path(mkdtemp(prefix="kodou-bench-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o711)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(directory / "link"))
            (directory / "link").chmod(0o666)
            listening.listen(1)
            listening.settimeout(START_TIMEOUT_S)
            made = self._engine.create_container_from_config(self._body(directory))["Id"]  # type: ignore[no-untyped-call]
            stack.callback(self._engine.remove_container, made, force=True)
            self._engine.start(made)
            connection, _ = listening.accept()
        stack.callback(connection.close)
        connection.sendall(b"[2, 4, 6]")
        checked(int(connection.recv(64)))
        return str(made)

    def _body(self, directory: Path) -> dict[str, object]:
        limits = {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "Memory": 512 * _MB,
            "MemorySwap": 512 * _MB,
            "PidsLimit": 128,
            "CpuPeriod": 100_000,
            "CpuQuota": 100_000,
            "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 1024}, {"Name": "core", "Soft": 0, "Hard": 0}],
            "Tmpfs": {"/tmp": "rw,nosuid,nodev,exec,size=256m,mode=1777"},
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "LogConfig": {"Type": "none", "Config": {}},
            "Mounts": [{"Type": "bind", "Source": str(directory), "Target": "/run/bench", "ReadOnly": True}],
        }
        return {
            "Image": self._image,
            "Cmd": ["python3", "-c", _ANSWER],
            "User": "10002:10002",
            "NetworkDisabled": True,
            "Env": ["OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1"],
            "Labels": {_LABEL: "1"},
            "HostConfig": limits,
        }


class DockerRun:
    """`docker run` with the same limits and a new interpreter, until it has printed the answer."""

    name = measures.DOCKER_RUN

    def __init__(self, images: Images) -> None:
        self._images = images

    def __enter__(self) -> "DockerRun":
        self._image = self._images.numpy()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self) -> float:
        return run_answers(self._image, *_OPTIONS)


def run_answers(image: str, *options: str) -> float:
    """Seconds until `docker run` prints the answer; its end is waited for, and does not count."""
    command = ["docker", "run", "--rm", *options, image, "python3", "-c", PROGRAM]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        output = process.stdout
        return timed(lambda: checked(int(output.readline())))


class DockerExec:
    """`docker exec` of a new interpreter in a container that runs already."""

    name = measures.DOCKER_EXEC

    def __init__(self, images: Images) -> None:
        self._images = images

    def __enter__(self) -> "DockerExec":
        self._container = f"kodou-bench-{uuid.uuid4().hex[:12]}"
        run("docker", "run", "--detach", "--name", self._container, *_OPTIONS, self._images.numpy(), "sleep", "86400")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["docker", "rm", "--force", self._container], check=False, capture_output=True, timeout=60)

    def call(self, count: int) -> list[float]:
        return repeated(lambda: checked(int(run("docker", "exec", self._container, "python3", "-c", PROGRAM))), count)


class DockerBuild:
    """`docker build` with pip, wheels at hand, and `docker run` of what it made."""

    name = measures.DOCKER_BUILD

    def __init__(self, images: Images) -> None:
        self._images = images

    def __enter__(self) -> "DockerBuild":
        self._base = self._images.plain()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def new(self, another: str) -> float:
        tag = f"kodou-bench:{uuid.uuid4().hex[:12]}"
        context = mkdtemp(prefix="kodou-bench-")
        try:
            dockerfile = INSTALL.format(base=self._base, packages=f"numpy {another}")
            return timed(lambda: build(tag, dockerfile, context)) + run_answers(tag, *_OPTIONS)
        finally:
            remove(tag)
            shutil.rmtree(context)
