import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner import frames


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@given(
    kind=st.integers(0, 255),
    flags=st.integers(0, 2**24 - 1),
    call_id=st.integers(0, 2**64 - 1),
    body=st.binary(max_size=999),
)
def test_what_is_encoded_is_read_back(kind: int, flags: int, call_id: int, body: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frames.encode(kind, body, call_id=call_id, flags=flags))
        frame = frames.read(theirs, max_bytes=1000)
    assert frame is not None
    assert (frame.kind, frame.flags, frame.call_id, frame.body) == (kind, flags, call_id, body)


def test_the_header_is_as_documented() -> None:
    frame = frames.encode(frames.CALL, b"{}", call_id=0x0102030405060708, flags=1)
    assert frame.hex() == "10" + "000001" + "00000002" + "00000000" + "0102030405060708" + b"{}".hex()


def test_a_frame_that_comes_byte_by_byte_is_read_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    frame = frames.encode(frames.VALUE, b"12345")

    def drip() -> None:
        for i in range(len(frame)):
            ours.sendall(frame[i : i + 1])

    thread = threading.Thread(target=drip)
    thread.start()
    read = frames.read(theirs, max_bytes=5)
    thread.join()
    assert read is not None
    assert read.body == b"12345"


@pytest.mark.parametrize("cut", [1, 19, 20, 21, 25, 27, 35])
def test_a_frame_asked_for_at_once_is_the_same_in_any_pieces(
    pair: tuple[socket.socket, socket.socket], cut: int
) -> None:
    ours, theirs = pair
    header = frames.HEADER.pack(frames.CALL, b"\0\0\1", 5, 10, 7)
    frame = header + b"12345" + b"0123456789"
    ours.sendall(frame[:cut])
    timer = threading.Timer(0.05, ours.sendall, args=(frame[cut:],))
    timer.start()
    read = frames.read(theirs, max_bytes=10, at_once=4096)
    timer.join()
    assert read is not None
    assert (read.flags, read.call_id, read.body, read.extra) == (1, 7, b"12345", b"0123456789")


def test_two_frames_where_one_may_come_are_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.sendall(frames.encode(frames.CALL, b"{}") * 2)
    with pytest.raises(frames.FrameError):
        frames.read(theirs, max_bytes=10, at_once=4096)


def test_a_body_larger_than_the_socket_holds_is_read_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    body = bytes(range(256)) * 8192
    thread = threading.Thread(target=ours.sendall, args=(frames.encode(frames.VALUE, body),))
    thread.start()
    read = frames.read(theirs, max_bytes=len(body))
    thread.join()
    assert read is not None
    assert read.body == body


def test_an_end_between_frames_is_clean(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.close()
    assert frames.read(theirs, max_bytes=10) is None


@pytest.mark.parametrize("sent", [1, frames.HEADER.size - 1, frames.HEADER.size, frames.HEADER.size + 1])
def test_an_end_inside_a_frame_is_an_error(pair: tuple[socket.socket, socket.socket], sent: int) -> None:
    ours, theirs = pair
    ours.sendall(frames.encode(frames.VALUE, b"123")[:sent])
    ours.close()
    with pytest.raises(frames.FrameError, match="inside a frame"):
        frames.read(theirs, max_bytes=10)


def test_a_body_over_the_limit_is_refused_by_its_header(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.sendall(frames.encode(frames.VALUE, b"12345678901"))
    with pytest.raises(frames.FrameError, match="11 and 0 bytes is over the limit of 10"):
        frames.read(theirs, max_bytes=10)


def test_attachments_come_behind_the_body(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.sendall(frames.HEADER.pack(frames.CALL, b"\0\0\0", 2, 5, 0) + b"{}" + b"extra")
    read = frames.read(theirs, max_bytes=10)
    assert read is not None
    assert (read.body, read.extra) == (b"{}", b"extra")


def test_attachments_over_the_limit_are_refused_by_their_header(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.sendall(frames.HEADER.pack(frames.CALL, b"\0\0\0", 0, 11, 0))
    with pytest.raises(frames.FrameError, match="over the limit of 10"):
        frames.read(theirs, max_bytes=10)
