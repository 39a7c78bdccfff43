"""How uv is run inside a builder sandbox: clean environment, no configuration, offline unless an index is given."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Dict, Iterator, List, NamedTuple, Optional, Sequence

from .forward import forwarding


class Index(NamedTuple):
    """The one package index, and the way to it."""

    url: str
    proxy: Optional[Path]  # Unix socket
    ca: Optional[Path]


class Uv:
    def __init__(self, binary: Path, index: Optional[Index]) -> None:
        self._binary = binary
        self.index = index

    @contextlib.contextmanager
    def running(
        self, arguments: Sequence[str], *, cache: Path, merge_output: bool
    ) -> "Iterator[subprocess.Popen[str]]":
        """Run one uv command; its output is text. With `merge_output`, what it writes to stderr comes on stdout too."""
        with self._proxy() as proxy:
            process = subprocess.Popen(
                [str(self._binary), *arguments, *self._index_options()],
                env=self._environment(cache, proxy),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merge_output else None,
                encoding="utf-8",
                errors="replace",
            )
            with process:
                yield process

    def _index_options(self) -> List[str]:
        return ["--offline", "--no-index"] if self.index is None else ["--default-index", self.index.url]

    @contextlib.contextmanager
    def _proxy(self) -> Iterator[Optional[str]]:
        if self.index is None or self.index.proxy is None:
            yield None
            return
        with forwarding(self.index.proxy) as port:
            yield f"http://127.0.0.1:{port}"

    def _environment(self, cache: Path, proxy: Optional[str]) -> Dict[str, str]:
        variables = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": tempfile.gettempdir(),
            "TMPDIR": tempfile.gettempdir(),
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
            "UV_CACHE_DIR": str(cache),
            "UV_NO_CONFIG": "1",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
        }
        if proxy is not None:
            variables.update(dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy))
        if self.index is not None and self.index.ca is not None:
            variables["SSL_CERT_FILE"] = str(self.index.ca)
        return variables


def interpreter() -> str:
    """The base interpreter that runs this, without links, so that the environment names what is surely there."""
    return os.path.realpath(sys.executable)


def pump(stream: "IO[str]") -> Iterator[str]:
    """Lines without their ends, empty ones left out."""
    for line in stream:
        stripped = line.strip()
        if stripped:
            yield stripped
