"""Any bytes on the link, in any pieces: both ends read frames, or say that there are none; nothing else happens."""

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from runner import frames

from orchestrator.sandboxes.content import Whole
from orchestrator.sandboxes.incoming import Incoming
from orchestrator.sandboxes.replies import (
    Malformed,
    read_event,
    read_exited,
    read_file_head,
    read_hello,
    read_in_form,
    read_reply,
)
from orchestrator.sandboxes.wire import Peer
from tests.fuzz.strategies import json_bodies, pieces

MOST = 40_000  # bytes of a body, and of what comes beside it; more than the orchestrator's scratch holds

Seen = list[tuple[int, bytes, bytes]]  # kind, body, extra


def _frame(kind: int, body: bytes, extra: bytes, call_id: int) -> bytes:
    return frames.HEADER.pack(kind, b"\0\0\0", len(body), len(extra), call_id) + body + extra


_bytes = st.builds(
    lambda start, fill: start + fill * b"x",
    st.binary(max_size=40),
    st.sampled_from([0, 0, 0, 16_340, 16_384, 30_000, MOST + 1]),
)
_frames = st.builds(
    _frame,
    st.sampled_from([*frames.REPLIES, *frames.EVENTS, frames.HELLO, frames.EXITED, 0, 255]),
    _bytes,
    st.just(b"") | _bytes,
    st.integers(0, 3),
)
_streams = st.lists(_frames | st.binary(max_size=30), max_size=5).map(b"".join)
_cuts = st.lists(st.integers(1, 40) | st.integers(1, 60_000), max_size=8)


@dataclass
class Recorder:
    """Who holds the connection: takes in frames as large as agreed, and notes what comes."""

    received_frames: Seen = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    coming: tuple[int, bytes, Incoming] | None = None  # a frame whose extra has not all come

    def refuses(self, peer: Peer, kind: int, length: int, extra: int, call_id: int) -> str | None:
        return "too large" if length > MOST or extra > MOST else None

    def received(self, peer: Peer, kind: int, body: bytes, content: Incoming | None) -> None:
        assert not self.violations
        assert self.coming is None
        if content is None:
            self.received_frames.append((kind, body, b""))
        else:
            self.coming = kind, body, content

    def content_ended(self, peer: Peer) -> None:
        assert self.coming is not None
        kind, body, content = self.coming
        self.coming = None
        self.received_frames.append((kind, body, b"".join(content._pieces)))

    def violated(self, peer: Peer, reason: str) -> None:
        self.violations.append(reason)
        peer.abort()

    def lost(self, peer: Peer) -> None: ...

    def closed(self, peer: Peer) -> None: ...


def plainly(stream: bytes) -> tuple[Seen, bool]:
    """What a decoder has to make of a whole stream: its frames, and whether something came that is none."""
    seen: Seen = []
    while len(stream) >= frames.HEADER.size:
        kind, _, length, extra, _ = frames.HEADER.unpack_from(stream)
        if extra > MOST or length > MOST:
            return seen, True
        begin = frames.HEADER.size + length
        if len(stream) < begin + extra:
            break
        seen.append((kind, stream[frames.HEADER.size : begin], stream[begin : begin + extra]))
        stream = stream[begin + extra :]
    return seen, False


@given(_streams, _cuts)
def test_the_orchestrator_reads_the_same_frames_in_whatever_pieces_they_come(stream: bytes, cuts: list[int]) -> None:
    loop = asyncio.new_event_loop()
    owner = Recorder()
    peer = Peer(owner, loop)
    try:
        for piece in pieces(stream, cuts):
            while piece and not owner.violations:
                buffer = peer.get_buffer(-1)
                assert len(buffer) > 0
                taken = min(len(buffer), len(piece))
                buffer[:taken] = piece[:taken]
                peer.buffer_updated(taken)
                piece = piece[taken:]
    finally:
        loop.close()
    assert (owner.received_frames, bool(owner.violations)) == plainly(stream)


def test_a_stream_may_be_split_at_every_boundary() -> None:
    test = test_the_orchestrator_reads_the_same_frames_in_whatever_pieces_they_come.hypothesis.inner_test
    stream = b"".join(frames.encode(kind, b"{}" * kind) for kind in (1, 5, 9)) + b"tail"
    for cut in range(1, len(stream)):
        test(stream, [cut])
    test(stream, list(range(1, len(stream))))


@given(_streams)
def test_the_runner_reads_frames_or_says_that_there_are_none(stream: bytes) -> None:
    ours, theirs = socket.socketpair()
    seen: Seen = []
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ours.setblocking(False)
        sent = ours.send(stream) if stream else 0
        ours.shutdown(socket.SHUT_WR)
        broken = False
        try:
            while (frame := frames.read(theirs, max_bytes=MOST)) is not None:
                seen.append((frame.kind, frame.body, frame.extra))
        except frames.FrameError:
            broken = True
    expected, refused = plainly(stream[:sent])
    assert seen == expected
    rest = sent - sum(frames.HEADER.size + len(body) + len(extra) for _, body, extra in seen)
    assert broken == (refused or rest > 0)


_bodies = json_bodies(
    b'{"error":false,"value":[1,2.5,"a\\u00e9",null,{"b":true}],"type":"list","ms":0.1}',
    b'{"error":true,"code":"exception","exception":{"type":"E","message":"m","traceback":""},"stdout":"x"}',
    b'{"code":"name_not_found","detail":"no such name","field":"namepath[0]"}',
    b'{"role":"worker","protocol":1,"generation":2,"pid":3}',
    b'{"code":null,"signal":9}',
    b'{"form":"png","type":"matplotlib.figure.Figure","ms":1.5}',
    b'{"files":[["f0",3],["f1",4]]}',
)


@given(st.sampled_from(sorted(frames.REPLIES - {frames.CONTENT})), _bodies)
def test_a_reply_that_is_passed_on_is_one_json_object(kind: int, body: bytes) -> None:
    try:
        read_reply(kind, body)
    except Malformed:
        return
    assert isinstance(json.loads(body.decode()), dict)


@given(_bodies, st.sampled_from(sorted(frames.EVENTS)), st.frozensets(st.sampled_from(sorted(frames.FORMS))))
def test_events_and_heads_of_content_are_what_they_must_be_or_refused(
    body: bytes, kind: int, asked: frozenset[str]
) -> None:
    with contextlib.suppress(Malformed):
        assert b"\n" not in read_event(kind, body).body
    with contextlib.suppress(Malformed):
        assert read_in_form(body, Whole(b""), asked).form in asked
    with contextlib.suppress(Malformed):
        assert sum(size for _, size in read_file_head(body, 7)) == 7


@given(_bodies)
def test_greetings_and_ends_are_read_or_refused(body: bytes) -> None:
    for read in (read_hello, read_exited):
        with contextlib.suppress(Malformed):
            read(body)
