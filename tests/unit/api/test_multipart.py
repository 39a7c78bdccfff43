"""Calls with files: taken in whatever pieces they come, bounded in every direction, and nothing of them left behind."""

import asyncio
import contextlib
import gc
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from orchestrator.api import multipart, spool
from orchestrator.api.middleware import Body, HeldBytes
from orchestrator.errors import InvalidRequest, SpoolFull, Unavailable
from orchestrator.sandboxes.work import File
from orchestrator.settings import Settings

pytestmark = pytest.mark.anyio

URL = "/environment/python/call"
CALL = {"sessionid": "s-1", "namepath": "len", "args": [{"$file": "data"}]}
MIB = 1024 * 1024


def form(*parts: tuple[str, bytes], boundary: bytes = b"xyz", ending: bytes = b"--\r\n") -> bytes:
    """Parts of their heads' further lines (or just a name) and data."""
    heads = [
        head if ":" in head else f'Content-Disposition: form-data; name="{head}"; filename="a"' for head, _ in parts
    ]
    written = [
        b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head.encode(), data)
        for head, (_, data) in zip(heads, parts, strict=True)
    ]
    return b"".join([*written, b"--" + boundary + ending])


def call(**members: object) -> tuple[str, bytes]:
    return "call", json.dumps({**CALL, **members}).encode()


async def post(
    api: Any, body: bytes | AsyncIterator[bytes], content_type: str = "multipart/form-data; boundary=xyz"
) -> httpx.Response:
    reply: httpx.Response = await api.client.post(
        URL, content=body, headers={**await api.bearer(), "Content-Type": content_type}
    )
    return reply


def contents(files: tuple[File, ...]) -> dict[str, bytes]:
    found = {}
    for file in files:
        data = file.source
        if not isinstance(data, bytes):
            data.seek(0)
            data = data.read(file.size + 1)
        assert len(data) == file.size
        found[file.name] = data
    return found


@pytest.mark.parametrize("first", [True, False])
async def test_the_call_may_come_before_its_files_or_after(api: Any, first: bool) -> None:
    parts = [call(), ("data", b"\x00\xff\r\n--xy"), ("naïve", b"")]
    reply = await post(api, form(*(parts if first else reversed(parts))))
    assert reply.status_code == 200, reply.text
    (work,) = api.sessions.work
    assert json.loads(work.body) == {**CALL, "sessionid": ""}  # no token for a sandbox to see
    assert contents(work.files) == {"data": b"\x00\xff\r\n--xy", "naïve": b""}


async def test_what_common_clients_send_is_taken(api: Any) -> None:
    files = {"call": (None, json.dumps(CALL), "application/json"), 'da"ta': ("a.bin", b"abc")}
    reply = await api.client.post(URL, files=files, headers=await api.bearer())
    assert reply.status_code == 200, reply.text
    assert contents(api.sessions.work[0].files) == {'da"ta': b"abc"}


@pytest.mark.parametrize(
    "told", ["boundary=xyz; charset=utf-8", 'charset=utf-8;Boundary="xyz"', 'x="; boundary=no"; boundary=xyz']
)
async def test_a_boundary_is_found_among_other_parameters(api: Any, told: str) -> None:
    assert (await post(api, form(call(), ("data", b"1")), f"multipart/form-data; {told}")).status_code == 200


async def test_a_boundary_may_be_of_any_characters_though_it_be_unquoted(api: Any) -> None:
    boundary = "----=_Part_1:2/3?"
    body = form(call(), ("data", b"1"), boundary=boundary.encode())
    assert (await post(api, body, f"multipart/form-data; boundary={boundary}")).status_code == 200


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=50)
@given(
    memory=st.sampled_from([(MIB, 16 * MIB), (40, 100), (0, 0)]),
    files=st.dictionaries(
        st.sampled_from("abcdé"), st.binary(max_size=300) | st.text("\r\n-xyz").map(str.encode), max_size=4
    ),
    around=st.sampled_from([b"", b"\r\n", b"\r\nFor readers that know no forms.\r\n\r\n", b"\r\n--xy\r\n-\r\n"]),
    cuts=st.lists(st.integers(0, 800), max_size=12),
)
async def test_files_are_the_same_however_the_body_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    memory: tuple[int, int],
    files: dict[str, bytes],
    around: bytes,
    cuts: list[int],
) -> None:
    """What stands around the parts, where RFC 2046 (5.1.1) lets something stand, is passed over."""
    files = {name: data for name, data in files.items() if b"\r\n--xyz" not in b"\r\n" + data}
    body = around + form(*files.items(), call()) + around
    ends = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multipart, "_PART_BYTES", memory[0])
        patch.setattr(multipart, "_FORM_BYTES", memory[1])
        taken, found = await take(
            [body[begin:end] for begin, end in pairwise(ends)], Settings(data_dir=tmp_path_factory.getbasetemp())
        )
    assert json.loads(taken) == CALL
    assert contents(found) == files


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(body=st.lists(st.sampled_from([b"--xyz", b"\r\n", b"--", b"\r", b"\n", b": ", b"Content-Disposition: form-data",
       b'; name="call"', b"; name=a", b";", b'"', b"{}", b"\xff", b"\0"]) | st.binary(max_size=9), max_size=30))  # fmt: skip
async def test_any_bytes_are_a_form_or_are_refused(tmp_path_factory: pytest.TempPathFactory, body: list[bytes]) -> None:
    with contextlib.suppress(InvalidRequest):
        await take(body, Settings(data_dir=tmp_path_factory.getbasetemp()))


async def take(
    pieces: list[bytes], settings: Settings, held: HeldBytes | None = None, uploads: multipart.Uploads | None = None
) -> tuple[bytes, tuple[File, ...]]:
    """What `Uploads` makes of a body in these pieces, behind the edge's bounds."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return messages.pop(0)

    headers = {b"content-type": b"multipart/form-data; boundary=xyz"}
    body = Body(receive, headers, settings.max_body_bytes, held or HeldBytes(settings.max_held_bytes))
    uploads = uploads or multipart.Uploads(settings)
    return await uploads.take({"state": {"headers": headers, "body": body}}, body.receive, "ada")


async def test_a_large_file_lies_on_disk_without_a_name(api: Any) -> None:
    data = bytes(range(256)) * 4096 * 3
    reply = await post(api, form(call(), ("data", data), ("small", b"s")))
    assert reply.status_code == 200
    assert list(api.settings.spool_dir.iterdir()) == []
    assert api.settings.spool_dir.stat().st_mode & 0o777 == 0o700
    (work,) = api.sessions.work
    assert [isinstance(file.source, bytes) for file in work.files] == [False, True]
    assert contents(work.files) == {"data": data, "small": b"s"}


async def test_a_form_takes_one_descriptor_however_many_parts_it_has(tmp_path: Path) -> None:
    gc.collect()
    before = descriptors()
    sent = {f"large {number}": bytes([number]) * MIB for number in range(16)}  # all that is held in memory
    sent |= {f"small {number}": bytes([number]) for number in range(200)}
    first, *others = form(*sent.items(), call()).split(b"\r\n--xyz")
    dribbled = [first, *(b"\r\n--xyz" + part for part in others)]
    _, files = await take(dribbled, Settings(data_dir=tmp_path))
    assert descriptors() == before + 1
    assert contents(files) == sent


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_files_of_one_form_are_read_beside_one_another(tmp_path: Path) -> None:
    sent = {name: os.urandom(2 * MIB) for name in "abc"}
    _, files = await take([form(call(), *sent.items())], Settings(data_dir=tmp_path))
    read = dict.fromkeys(sent, b"")
    for _ in range(4):
        for file in files:
            assert not isinstance(file.source, bytes)
            read[file.name] += file.source.read(MIB // 2)
    assert read == sent


def test_a_file_goes_when_nothing_refers_to_it_any_more(tmp_path: Path) -> None:
    space = spool.Spool(Settings(data_dir=tmp_path))
    file = space.open()
    file.append(b"x" * 1000)
    kept = [file]  # by a call that outlives its request
    del file
    before = space.bytes
    kept.clear()
    assert (before, space.bytes) == (1000, 0)


async def test_no_more_is_held_in_memory_than_a_few_megabytes_whatever_is_sent(tmp_path: Path) -> None:
    pieces = [form(call(), ending=b"")]
    for number in range(40):
        pieces += [
            b'\r\nContent-Disposition: form-data; name="%d"\r\n\r\n' % number,
            *[b"\0" * 65536] * 15,
            b"\r\n--xyz",
        ]
    pieces += [b"--\r\n", *[b"after the end"] * 1000]
    held = HeldBytes(18 * MIB)  # more would be refused
    _, files = await take(pieces, Settings(data_dir=tmp_path), held)
    assert [file.size for file in files] == [15 * 65536] * 40


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (form(("data", b"1")), 422, "call"),
        (form(), 422, "call"),
        (form(call(), call()), 422, "call"),
        (form(call(), ("data", b"1"), ("data", b"2")), 422, "data"),
        (form(call(), ("Content-Disposition: form-data", b"1")), 400, None),
        (form(call(), ('Content-Disposition: form-data; name=""', b"1")), 400, None),
        (form(call(), ("Content-Type: text/plain", b"1")), 400, None),
        (form(call(), ('Content-Disposition: attachment; name="data"', b"1")), 400, None),
        (form(call(), ('Content-Disposition: form-data; name="data"\r\nContent-Length: 2', b"1")), 400, None),
        (b"xyz" + form(call()), 400, None),
        (form(call(), ("x" * 201, b"1")), 400, None),
        (
            form(call(), ('Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: base64', b"")),
            422,
            "a",
        ),
        (form(call(extra=1)), 422, "extra"),
        (form(("call", b'{"namepath":')), 400, None),
        (form(call(), ("data", b"1"), ending=b""), 400, None),
        (form(call())[:-40], 400, None),
        (form(call(), boundary=b"other"), 400, None),
        (b"", 400, None),
        (b"not a form", 400, None),
    ],
)
async def test_a_form_that_is_no_call_is_refused_naming_the_part(
    api: Any, body: bytes, status: int, field: str | None
) -> None:
    reply = await post(api, body)
    problem = reply.json()
    assert (reply.status_code, problem["code"], problem.get("field")) == (status, "invalid_request", field), problem
    assert problem["detail"]
    assert not api.sessions.work


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        "; boundary=",
        f"; boundary={'x' * 71}",
        "; boundary*=utf-8''x%0Ayz",
        "; boundary*=idna''xyz",
        "; boundary*=punycode''%ff",
    ],
)
async def test_a_form_without_a_boundary_is_malformed(api: Any, parameters: str) -> None:
    reply = await post(api, form(call()), f"multipart/form-data{parameters}")
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("told", [True, False])
async def test_an_upload_over_the_limit_is_refused_whether_or_not_its_length_was_told(
    make_api: Any, told: bool
) -> None:
    api = await make_api(max_upload_bytes=100_000, max_body_bytes=2048)
    assert (await post(api, form(call(), ("data", b"x" * 90_000)))).status_code == 200
    body = form(call(), ("data", b"x" * 100_000))
    reply = await post(api, body if told else pieces_of(body))
    assert (reply.status_code, reply.json()["code"], reply.json()["limit_bytes"]) == (413, "payload_too_large", 100_000)


async def pieces_of(body: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(body), 10_000):
        yield body[begin : begin + 10_000]


async def test_the_call_itself_has_the_limit_of_any_body(make_api: Any) -> None:
    api = await make_api(max_body_bytes=2048)
    reply = await post(api, form(call(kwargs={"a": "x" * 2048})))
    assert (reply.status_code, reply.json()["code"], reply.json()["limit_bytes"]) == (413, "payload_too_large", 2048)


async def test_other_endpoints_take_no_forms(api: Any) -> None:
    headers = {**await api.bearer(), "Content-Type": "multipart/form-data; boundary=xyz"}
    reply = await api.client.post("/environment/python/setup", content=form(call()), headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")


async def test_too_many_parts_are_refused(make_api: Any) -> None:
    api = await make_api(max_upload_parts=3)
    assert (await post(api, form(call(), ("a", b""), ("b", b"")))).status_code == 200
    reply = await post(api, form(call(), ("a", b""), ("b", b""), ("c", b"")))
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_request")
    assert "3" in reply.json()["detail"]


async def test_many_small_parts_are_counted(tmp_path: Path) -> None:
    """Each takes more memory than its bytes do."""
    sent = form(call(), *((f"f{number}", b"x") for number in range(5000)))
    with pytest.raises(Unavailable):
        await take([sent], Settings(data_dir=tmp_path), HeldBytes(2 * MIB))


async def test_forms_take_turns_and_others_run_between_any_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part takes more time than its bytes do, in whatever piece of the body it comes."""
    settings = Settings(data_dir=tmp_path)
    uploads = multipart.Uploads(settings)
    begun: list[str] = []

    class Part(multipart._Part):
        def __init__(self, name: str = "") -> None:
            super().__init__(name)
            begun.append(name[:1])

    monkeypatch.setattr(multipart, "_Part", Part)
    monkeypatch.setattr(multipart, "_TURN_S", 0.0)  # so that each step is a turn
    sent = [{f"{owner}{number}": b"" for number in range(100)} for owner in "123"]
    bodies = [form(*files.items(), call()) for files in sent]
    running = [asyncio.create_task(take([body], settings, uploads=uploads)) for body in bodies]
    await asyncio.sleep(0)  # the first step of each waits for nobody
    in_a_pass = []
    while not all(task.done() for task in running):
        before = len(begun)
        await asyncio.sleep(0)
        in_a_pass.append(len(begun) - before)
    assert max(in_a_pass) == 1
    assert Counter(begun[90:150]) == {"1": 20, "2": 20, "3": 20}
    assert [contents((await task)[1]) for task in running] == sent


async def test_all_files_on_disk_have_one_bound_and_make_room_when_they_go(make_api: Any) -> None:
    api = await make_api(max_upload_bytes=4 * MIB, max_spooled_bytes=4 * MIB)
    upload = form(call(), ("data", b"x" * 3 * MIB))
    assert (await post(api, upload)).status_code == 200  # and its file is still there, as `api.sessions` keeps it
    reply = await post(api, upload)
    assert (reply.status_code, reply.json()["code"]) == (503, "spool_full")
    assert reply.headers["retry-after"]
    api.sessions.work.clear()
    gc.collect()
    assert (await post(api, upload)).status_code == 200


@pytest.mark.parametrize("url", [URL, "/kompose"])
async def test_no_owner_may_fill_the_disk_for_the_others(make_api: Any, url: str) -> None:
    api = await make_api(max_upload_bytes=4 * MIB, max_spooled_bytes_per_owner=4 * MIB)
    upload = form(call(), ("data", b"x" * 3 * MIB))
    assert (await post(api, upload)).status_code == 200  # and its file is still there, as `api.sessions` keeps it
    content_type = {"Content-Type": "multipart/form-data; boundary=xyz"}
    reply = await api.client.post(url, content=upload, headers={**await api.bearer("ada"), **content_type})
    assert (reply.status_code, reply.json()["code"]) == (503, "spool_full")
    reply = await api.client.post(URL, content=upload, headers={**await api.bearer("bob"), **content_type})
    assert reply.status_code == 200


def test_an_owner_has_its_share_again_when_its_files_go(tmp_path: Path) -> None:
    space = spool.Spool(Settings(data_dir=tmp_path, max_upload_bytes=1024, max_spooled_bytes_per_owner=1024))
    first, second, other = space.of("ada").open(), space.of("ada").open(), space.of("bob").open()
    for file in (first, other):
        file.append(b"x" * 1000)
    with pytest.raises(SpoolFull, match="one owner"):
        second.append(b"x" * 25)
    second.append(b"x" * 24)
    first.close()
    second.append(b"x" * 1000)
    assert space.bytes == 2024
    second.close()
    other.close()
    assert space.bytes == 0


def test_a_full_disk_is_told_and_nothing_stays_counted(tmp_path: Path) -> None:
    space = spool.Spool(Settings(data_dir=tmp_path))
    with Path("/dev/full").open("r+b", buffering=0) as full:
        file = spool.SpoolFile(full, space, "ada")
        with pytest.raises(SpoolFull, match="disk"):
            file.append(b"x" * MIB)
    del file
    gc.collect()
    assert space.bytes == 0


async def test_a_spool_that_cannot_be_made_is_told_as_a_full_one(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    with pytest.raises(SpoolFull):
        await take([form(call(), ("data", b"x" * 2 * MIB))], Settings(data_dir=tmp_path))


async def test_the_file_of_a_form_that_is_none_goes_at_once(tmp_path: Path) -> None:
    body = form(call(), ("data", b"x" * 2 * MIB), ending=b"\r\nnot a header\r\n")
    settings = Settings(data_dir=tmp_path)
    uploads = multipart.Uploads(settings)
    gc.disable()  # which would find it too, at some time
    try:
        with contextlib.suppress(InvalidRequest):
            await take([body], settings, uploads=uploads)
        await asyncio.to_thread(int)  # so that the thread which wrote it holds nothing of it
        assert uploads.spool.bytes == 0
    finally:
        gc.enable()


async def test_a_client_that_leaves_inside_an_upload_leaves_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    uploads = multipart.Uploads(settings)
    messages = [
        {"type": "http.request", "body": form(call(), ("data", b"x" * 2 * MIB), ending=b""), "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    headers = {b"content-type": b"multipart/form-data; boundary=xyz"}
    body = Body(receive, headers, settings.max_body_bytes, HeldBytes(settings.max_held_bytes))
    with pytest.raises(ClientDisconnect):
        await uploads.take({"state": {"headers": headers, "body": body}}, body.receive, "ada")
    gc.collect()
    assert uploads.spool.bytes == 0
