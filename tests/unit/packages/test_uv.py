import asyncio
import os
import stat
from pathlib import Path

import pytest

from orchestrator.packages import uv
from orchestrator.packages.uv import ca_bundle, run_uv, shared_uv, uv_binary
from tests.unit.environments.fakes import settings_in


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for uv."""
    path = tmp_path / "uv"
    path.write_text("#!/bin/sh\nenv; echo args $*; cat >&2; exit 3\n")
    path.chmod(0o755)
    monkeypatch.setattr(uv, "uv_binary", lambda: path)
    return path


def sleeping(script: Path, pid: Path) -> None:
    script.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 600\n")


@pytest.mark.anyio
async def test_uv_gets_a_clean_environment_and_no_secret_among_its_arguments(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "HTTPS_PROXY", "KODOU_SECRET", "NETRC"):
        monkeypatch.setenv(name, "of-the-server")
    settings = settings_in(
        tmp_path / "data", index_url="https://user:secret@index.example/simple", index_proxy="http://proxy.example:3128"
    )
    result = await run_uv(["pip", "compile", "-"], settings=settings, stdin="numpy\n", timeout_s=60)
    assert result.code == 3
    assert result.stderr == "numpy\n"
    *lines, arguments = result.stdout.splitlines()
    environment = dict(line.split("=", 1) for line in lines)
    assert arguments == "args pip compile -"
    assert "of-the-server" not in result.stdout
    config = await asyncio.to_thread(Path(environment["UV_CONFIG_FILE"]).read_text)
    assert 'url = "https://index.example/simple"' in config
    assert "secret" not in config
    assert environment["UV_INDEX_KODOU_USERNAME"] == "user"
    assert environment["UV_INDEX_KODOU_PASSWORD"] == "secret"
    assert environment["UV_NO_CONFIG"] == "1"
    assert environment["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert environment["UV_CACHE_DIR"] == environment["HOME"] == str(tmp_path / "data" / "uv-cache")
    assert stat.S_IMODE((tmp_path / "data" / "uv-cache").stat().st_mode) == 0o700


@pytest.mark.anyio
async def test_uv_is_killed_at_the_deadline(tmp_path: Path, script: Path) -> None:
    sleeping(script, tmp_path / "pid")
    (tmp_path / "pid").touch()
    timeout_s = 0.25
    while not (tmp_path / "pid").read_text().endswith("\n"):  # it was killed before it could say who it is
        timeout_s *= 2
        with pytest.raises(TimeoutError):
            await run_uv([], settings=settings_in(tmp_path / "data"), timeout_s=timeout_s)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.anyio
async def test_uv_is_killed_with_the_task_that_waits(tmp_path: Path, script: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    sleeping(script, tmp_path / "pid")
    task = asyncio.create_task(run_uv([], settings=settings_in(tmp_path / "data"), timeout_s=60))
    pid = int(await asyncio.to_thread((tmp_path / "pid").read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_shared_copy_can_be_run_by_any_user(open_tmp_path: Path) -> None:
    settings = settings_in(open_tmp_path / "data")
    copy = shared_uv(settings)
    assert copy.read_bytes() == uv_binary().read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o755
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(copy.parent.parent.stat().st_mode) == 0o711
    written = copy.stat().st_mtime_ns
    assert shared_uv(settings) == copy
    assert copy.stat().st_mtime_ns == written
    assert list(copy.parent.iterdir()) == [copy]


def test_authorities_come_from_the_setting_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "ca.pem"
    named.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(named))
    assert ca_bundle(settings_in(tmp_path)) == named
    assert ca_bundle(settings_in(tmp_path, ca_bundle=tmp_path / "own.pem")) == tmp_path / "own.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    assert ca_bundle(settings_in(tmp_path)) is None
