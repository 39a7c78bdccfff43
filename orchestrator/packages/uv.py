"""uv on this host: it resolves and never installs, so nothing of a package runs here."""

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote

import uv

from orchestrator.packages.index import Index
from orchestrator.settings import Settings

# What PyPI itself says in its headers; many mirrors say nothing, and then every resolution fetches whole pages anew.
_CONFIG = """\
[[index]]
name = "kodou"
url = {url}
default = true
cache-control = {{ {api}files = "max-age=31536000, immutable" }}
"""
_API = 'api = "max-age=600", '


@dataclass(frozen=True, slots=True)
class UvResult:
    code: int
    stdout: str
    stderr: str


@lru_cache(maxsize=1)
def uv_binary() -> Path:
    """The executable of the `uv` distribution that kodou depends on. Raises `FileNotFoundError`."""
    return Path(uv.find_uv_bin())


def shared_uv(settings: Settings) -> Path:
    """A copy of uv in the data directory, to be mounted into builder sandboxes. Blocks: call it in a thread.

    The installed one may lie where an unprivileged user id cannot reach (`/root`).
    """
    directory = settings.data_dir / "tools"
    target = directory / f"uv-{version('uv')}"
    if target.exists():
        return target
    settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    directory.mkdir(mode=0o755, exist_ok=True)
    directory.chmod(0o755)
    with _new(target) as draft:
        shutil.copyfile(uv_binary(), draft)
        draft.chmod(0o755)
    return target


def ca_bundle(settings: Settings) -> Path | None:
    """PEM file of the authorities that vouch for the index; None: the system's own."""
    if settings.ca_bundle is not None:
        return settings.ca_bundle
    named = os.environ.get("SSL_CERT_FILE")
    return Path(named) if named and Path(named).is_file() else None


async def run_uv(
    args: Sequence[str], *, settings: Settings, stdin: str | None = None, timeout_s: float, fresh: bool = False
) -> UvResult:
    """Run uv with an environment of its own. Killed when the caller is cancelled; raises `TimeoutError`.

    `fresh`: leave how long pages are good for to the index; else `--refresh` would not make uv ask for them anew.
    """
    process = await asyncio.create_subprocess_exec(
        uv_binary(),
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(await asyncio.to_thread(_environment, settings, fresh)),
        cwd="/",
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await process.communicate((stdin or "").encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return UvResult(process.returncode or 0, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def _environment(settings: Settings, fresh: bool) -> Mapping[str, str]:
    """Nothing of the server's own environment reaches uv: no other index, no proxy, no credential, no `~/.netrc`."""
    cache = settings.data_dir / "uv-cache"
    settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    cache.mkdir(mode=0o700, exist_ok=True)
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(cache),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "UV_CACHE_DIR": str(cache),
        "UV_CONFIG_FILE": str(_config(settings, fresh)),
        "UV_NO_CONFIG": "1",  # none but that one
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
    }
    credentials = Index.of(settings).credentials
    if credentials is not None:  # in neither a file nor an argument
        environment["UV_INDEX_KODOU_USERNAME"], environment["UV_INDEX_KODOU_PASSWORD"] = map(unquote, credentials)
    bundle = ca_bundle(settings)
    if bundle is not None:
        environment["SSL_CERT_FILE"] = str(bundle)
    if settings.index_proxy is not None:
        environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), settings.index_proxy)
    return environment


def _config(settings: Settings, fresh: bool) -> Path:
    """uv's configuration file: the one index, without credentials. Named by its content, so never changed."""
    text = _CONFIG.format(url=json.dumps(Index.of(settings).url), api="" if fresh else _API)
    path = settings.data_dir / f"uv-{hashlib.sha256(text.encode()).hexdigest()[:12]}.toml"
    if not path.exists():
        with _new(path) as draft:
            draft.write_text(text)
    return path


@contextmanager
def _new(target: Path) -> Iterator[Path]:
    """A draft beside `target` that takes its place at the end. Another process may be first, with the same bytes."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".uv-")
    os.close(descriptor)
    draft = Path(name)
    try:
        yield draft
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
