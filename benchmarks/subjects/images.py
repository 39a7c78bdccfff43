"""Images for peers on docker: the base that kodou builds on, with pip's virtual environment in it, without and with numpy."""

import subprocess
import uuid
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers.venvs import python_of
from benchmarks.servers import ENVIRONMENT
from benchmarks.subjects.interface import Unavailable
from orchestrator.settings import Settings

BUILD_TIMEOUT_S = 600
_PLAIN = """\
FROM {base}
RUN python3 -m venv /opt/env && mkdir /sandbox && ln -s /opt/env /sandbox/.sandbox-venv && chmod 1777 /sandbox
ENV PATH=/opt/env/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY wheels /wheels
CMD ["python3"]
"""
INSTALL = "FROM {base}\nRUN pip install --no-index --find-links /wheels --quiet {packages}\n"


class Images:
    """The two images, made on the first wish and removed at the end; no other run's."""

    def __init__(self, packages: list[str]) -> None:
        self._packages = packages
        run_id = uuid.uuid4().hex[:12]
        self._plain = f"kodou-bench:{run_id}-plain"  # with the wheels of all that is installed later
        self._numpy = f"kodou-bench:{run_id}-numpy"
        self._made: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> "Images":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def plain(self) -> str:
        if self._plain not in self._made:
            base = Settings().base_images[0]
            with TemporaryDirectory(prefix="kodou-bench-") as context:
                self._download(base, Path(context) / "wheels")
                self._build(self._plain, _PLAIN.format(base=base), context)
        return self._plain

    def numpy(self) -> str:
        if self._numpy not in self._made:
            with TemporaryDirectory(prefix="kodou-bench-") as context:
                self._build(self._numpy, INSTALL.format(base=self.plain(), packages="numpy"), context)
        return self._numpy

    def _download(self, base: str, wheels: Path) -> None:
        said = run("docker", "run", "--rm", "--network", "none", base, "python3", "-c", _VERSION)
        run(
            *(str(python_of("pip")), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--only-binary", ":all:", "--python-version", said.strip(), "--dest", str(wheels)),
            *("--index-url", Settings().index_url),
            "numpy",
        )
        for package in self._packages:  # one by one: they are versions of the same project
            run(
                *(str(python_of("pip")), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--dest", str(wheels), "--index-url", Settings().index_url, package),
            )

    def _build(self, tag: str, dockerfile: str, context: str) -> None:
        build(tag, dockerfile, context)
        self._stack.callback(remove, tag)
        self._made.add(tag)


_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def build(tag: str, dockerfile: str, context: str) -> None:
    """`docker build`, with nothing of an earlier build."""
    (Path(context) / "Dockerfile").write_text(dockerfile)
    run("docker", "build", "--quiet", "--no-cache", "--force-rm", "--network", "none", "--tag", tag, context)


def remove(tag: str) -> None:
    subprocess.run(["docker", "image", "rm", "--force", tag], check=False, capture_output=True, timeout=60)


def run(*command: str) -> str:
    """What it prints. Raises Unavailable with the end of what it says."""
    try:
        done = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except OSError as exc:
        raise Unavailable(str(exc)) from exc
    if done.returncode:
        msg = f"{' '.join(command[:2])}: {done.stderr.strip()[-300:]}"
        raise Unavailable(msg)
    return done.stdout
