import asyncio
import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from orchestrator.environments import wheels
from orchestrator.environments.lock import LockedFile
from orchestrator.environments.wheels import WheelStore
from orchestrator.errors import BuildFailed, DependencyUnresolvable, IndexUnavailable, KodouError, StoreBusy
from orchestrator.sandboxes.backend import BuildEvent
from orchestrator.settings import Settings
from tests.unit.environments.fakes import Answer, Upstream, content, settings_in, status

pytestmark = pytest.mark.anyio

BODY = os.urandom(3 * 1024 * 1024 + 17)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream().running() as server:
        yield server


@pytest.fixture
def settings(upstream: Upstream, open_tmp_path: Path) -> Settings:
    return settings_in(open_tmp_path / "data", index_url=f"{upstream.url}/simple", index_file_hosts=())


@pytest.fixture
def store(settings: Settings) -> WheelStore:
    return WheelStore(settings, backoff_s=0.001)


def locked(upstream: Upstream, body: bytes = BODY, *, name: str = "a", url: str | None = None) -> LockedFile:
    filename = f"{name}-1-py3-none-any.whl"
    sha256 = hashlib.sha256(body).hexdigest()
    return LockedFile(name, "1", filename, url or f"{upstream.url}/{filename}", sha256, None, is_sdist=False)


async def fetched(store: WheelStore, *files: LockedFile) -> list[BuildEvent]:
    try:
        return [event async for event in store.fetch(files)]
    finally:
        await store.aclose()


def everything(settings: Settings) -> list[Path]:
    return [path for path in settings.wheels_dir.rglob("*") if path.is_file()]


async def test_a_file_is_fetched_once_and_kept_by_its_hash(
    store: WheelStore, upstream: Upstream, settings: Settings
) -> None:
    upstream.answers["/a-1-py3-none-any.whl"] = content(BODY)
    file = locked(upstream)
    events = await fetched(store, file)
    path = settings.wheels_dir / file.sha256[:2] / file.sha256 / "a-1-py3-none-any.whl"
    assert store.path(file) == path
    assert await asyncio.to_thread(path.read_bytes) == BODY
    assert {(event.phase, event.package, event.total) for event in events} == {("fetch", "a", len(BODY))}
    so_far = [event.bytes for event in events]
    assert so_far == sorted(so_far)  # type: ignore[type-var]
    assert so_far[-1] == len(BODY)
    assert len(so_far) > 2
    again = await fetched(store, file)
    assert [event.bytes for event in again] == [len(BODY)]
    assert len(upstream.requests) == 1
    assert everything(settings) == [path]


async def test_other_users_may_read_what_is_kept_whatever_the_umask(
    store: WheelStore, upstream: Upstream, settings: Settings
) -> None:
    upstream.answers["/a-1-py3-none-any.whl"] = content(BODY)
    before = os.umask(0o077)
    try:
        await fetched(store, locked(upstream))
    finally:
        os.umask(before)
    (path,) = everything(settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o755


async def test_a_file_with_another_hash_is_refused_and_not_kept(
    store: WheelStore, upstream: Upstream, settings: Settings
) -> None:
    upstream.answers["/a-1-py3-none-any.whl"] = content(BODY + b"!")
    with pytest.raises(BuildFailed, match="SHA-256"):
        await fetched(store, locked(upstream))
    assert everything(settings) == []


async def test_fetches_of_one_file_at_the_same_time_are_one(store: WheelStore, upstream: Upstream) -> None:
    upstream.answers["/a-1-py3-none-any.whl"] = content(BODY)
    file = locked(upstream)

    async def fetch() -> None:
        assert [event async for event in store.fetch([file])][-1].bytes == len(BODY)

    await asyncio.gather(*(fetch() for _ in range(5)))
    await store.aclose()
    assert len(upstream.requests) == 1


async def test_files_of_a_set_are_fetched_at_the_same_time(store: WheelStore, upstream: Upstream) -> None:
    async def answered() -> None:
        await fetched(store, locked(upstream, b"a", name="a"), locked(upstream, b"b", name="b"))

    both = threading.Barrier(2, timeout=60)

    def together(body: bytes) -> Answer:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            both.wait()  # breaks unless the other is asked for meanwhile
            content(body)(handler)

        return answer

    upstream.answers["/a-1-py3-none-any.whl"] = together(b"a")
    upstream.answers["/b-1-py3-none-any.whl"] = together(b"b")
    await answered()


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_what_may_pass_is_tried_again(code: int, store: WheelStore, upstream: Upstream) -> None:
    codes = [code, code]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (status(codes.pop()) if codes else content(BODY))(handler)

    upstream.answers["/a-1-py3-none-any.whl"] = answer
    await fetched(store, locked(upstream))
    assert len(upstream.requests) == 3


async def test_a_transfer_that_breaks_off_is_begun_anew(
    store: WheelStore, upstream: Upstream, settings: Settings
) -> None:
    cut = [True]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(BODY)))
        handler.end_headers()
        handler.wfile.write(BODY[: len(BODY) // 2] if cut else BODY)
        cut.clear()

    upstream.answers["/a-1-py3-none-any.whl"] = answer
    await fetched(store, locked(upstream))
    assert len(everything(settings)) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "requests"),
    [
        (status(503), IndexUnavailable, 3),
        (status(404), DependencyUnresolvable, 1),
        (status(403), DependencyUnresolvable, 1),
        (status(302, location="http://evil.example/x.whl"), DependencyUnresolvable, 1),
        (status(302, location="file:///etc/passwd"), DependencyUnresolvable, 1),
        (status(302, location="http://[::1"), IndexUnavailable, 3),
        (status(302, location="/a-1-py3-none-any.whl"), DependencyUnresolvable, wheels.MAX_REDIRECTS),
    ],
)
async def test_what_will_not_pass_is_told(
    answer: Answer, kind: type[KodouError], requests: int, store: WheelStore, upstream: Upstream, settings: Settings
) -> None:
    upstream.answers["/a-1-py3-none-any.whl"] = answer
    with pytest.raises(kind) as caught:
        await fetched(store, locked(upstream))
    assert type(caught.value) is kind
    assert "127.0.0.1" not in caught.value.detail
    assert len(upstream.requests) == requests
    assert everything(settings) == []


async def test_an_index_that_is_not_there_is_told(store: WheelStore, upstream: Upstream) -> None:
    await asyncio.to_thread(upstream._server.server_close)
    with pytest.raises(IndexUnavailable):
        await fetched(store, locked(upstream))


@pytest.mark.parametrize("url", ["http://evil.example/a.whl", "file:///etc/passwd", "http://user:pw@127.0.0.1/a.whl"])
async def test_other_hosts_and_schemes_are_never_asked(url: str, store: WheelStore, upstream: Upstream) -> None:
    with pytest.raises(DependencyUnresolvable, match="not allowed"):
        await fetched(store, locked(upstream, url=url))


async def test_a_redirect_to_an_allowed_host_is_followed_without_credentials(open_tmp_path: Path) -> None:
    with Upstream().running() as index, Upstream().running() as files:
        settings = settings_in(
            open_tmp_path,
            index_url=f"http://user:p%40ss@127.0.0.1:{index.port}/simple",
            index_file_hosts=(f"127.0.0.1:{files.port}",),
        )
        index.answers["/a-1-py3-none-any.whl"] = status(302, location=f"{files.url}/other")
        files.answers["/other"] = content(BODY)
        await fetched(WheelStore(settings), locked(index))
    ((_, _, to_index),) = index.requests
    ((_, _, to_files),) = files.requests
    assert to_index["authorization"] == "Basic dXNlcjpwQHNz"
    assert "authorization" not in to_files
    assert to_files["accept-encoding"] == "identity"


async def test_the_proxy_of_the_environment_is_not_used(
    store: WheelStore, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    upstream.answers["/a-1-py3-none-any.whl"] = content(BODY)
    assert await fetched(store, locked(upstream))


async def test_a_set_that_is_too_large_is_cut_off(upstream: Upstream, open_tmp_path: Path) -> None:
    settings = settings_in(open_tmp_path, index_url=f"{upstream.url}/simple", build_disk_mb=16)
    half = os.urandom(9 * 1024 * 1024)
    upstream.answers["/a-1-py3-none-any.whl"] = content(half)
    upstream.answers["/b-1-py3-none-any.whl"] = content(half[::-1])
    with pytest.raises(BuildFailed, match="16 MB"):
        await fetched(WheelStore(settings), locked(upstream, half), locked(upstream, half[::-1], name="b"))


async def test_a_full_disk_is_told_as_such(
    store: WheelStore, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, chunk: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    upstream.answers["/a-1-py3-none-any.whl"] = content(BODY)
    monkeypatch.setattr("orchestrator.environments.wheels._Part.write", full)
    with pytest.raises(StoreBusy):
        await fetched(store, locked(upstream))


async def test_a_fetch_that_is_given_up_leaves_nothing(
    store: WheelStore, upstream: Upstream, settings: Settings
) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(2 * len(BODY)))
        handler.end_headers()
        handler.wfile.write(BODY)
        handler.rfile.read(1)  # until the client has gone

    upstream.answers["/a-1-py3-none-any.whl"] = answer
    events = store.fetch([locked(upstream)])
    await anext(events)
    await events.aclose()
    await store.aclose()
    assert everything(settings) == []


async def test_what_nobody_asked_for_in_a_long_time_is_swept(settings: Settings) -> None:
    def make(name: str, age_s: float) -> Path:
        path = settings.wheels_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
        return path

    old, young, cut = make("aa/aa1/x.whl", 10_000), make("bb/bb1/y.whl", 3_000), make(".parts/tmp1", 10_000)
    await WheelStore(settings).sweep(5_000)
    assert (old.exists(), young.exists(), cut.exists()) == (False, True, False)
    assert not old.parent.exists()
    await WheelStore(settings).sweep(0)  # a build that takes as long as it may can still hold the other
    assert (young.exists(), settings.build_timeout_s) == (False, 600)
    recent = make("cc/cc1/z.whl", 1_000)
    await WheelStore(settings).sweep(0)
    assert recent.exists()
