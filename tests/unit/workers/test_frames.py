"""Frames come out as they went in, however the socket cuts them."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.workers import frames
from orchestrator.workers.frames import Frame, Link, Reader

bytestrings = st.binary(max_size=300)
any_frames = st.lists(
    st.builds(
        Frame,
        st.sampled_from([frames.REQUEST, frames.BODY, frames.REPLY, frames.GONE]),
        st.sampled_from([0, frames.MORE, frames.PART]),
        st.integers(0, 2**64 - 1),
        bytestrings,
        st.one_of(bytestrings, st.integers(0, 40_000).map(bytes)),
    ),
    max_size=8,
)


class Written:
    """What a link has written; stands where a transport does."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data


def on_the_wire(sent: list[Frame]) -> bytes:
    written, link = Written(), Link()
    link.connection_made(written)
    for frame in sent:
        link.write(frame.kind, frame.id, frame.flags, frame.head, memoryview(frame.body))
    return bytes(written.data)


@given(any_frames, st.lists(st.integers(1, 30_000), max_size=20))
def test_frames_arrive_whole_and_in_order_however_they_are_cut(sent: list[Frame], sizes: list[int]) -> None:
    wire, reader, received = on_the_wire(sent), Reader(), []
    for size in [*sizes, len(wire)]:
        received += reader.feed(wire[:size])
        wire = wire[size:]
    assert received == sent


@given(any_frames)
def test_a_byte_at_a_time(sent: list[Frame]) -> None:
    sent = [frame._replace(body=frame.body[:100]) for frame in sent]
    reader = Reader()
    received = [frame for byte in on_the_wire(sent) for frame in reader.feed(bytes([byte]))]
    assert received == sent
