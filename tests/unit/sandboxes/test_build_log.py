"""A builder's output is hostile: it becomes bounded text, and never a word of the orchestrator's."""

import json

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.sandboxes.build_log import MAX_EVENTS, MAX_LINE_BYTES, BuildLog


def line(**members: object) -> bytes:
    return json.dumps(members).encode() + b"\n"


def test_lines_become_events_with_phase_and_package() -> None:
    events = BuildLog(tail_bytes=1000).stdout(line(phase="compile", package="numpy", line="+ numpy"))
    assert [(event.phase, event.package, event.line) for event in events] == [("compile", "numpy", "+ numpy")]


def test_a_line_may_come_in_pieces() -> None:
    log, data = BuildLog(tail_bytes=1000), line(phase="install", package=None, line="whole")
    assert log.stdout(data[:7]) == []
    assert [event.line for event in log.stdout(data[7:])] == ["whole"]


def test_a_builder_cannot_say_that_it_is_ready() -> None:
    (event,) = BuildLog(tail_bytes=1000).stdout(line(phase="ready", package=None, line="done"))
    assert event.phase == "install"


def test_what_is_no_json_is_a_line_of_text() -> None:
    log = BuildLog(tail_bytes=1000)
    texts = [event.line for event in log.stdout(b"plain\n[1]\n" + b"[" * 1500 + b'\n{"line": 5}\n')]
    assert texts == ["plain", "[1]", "[" * 1500, '{"line": 5}']


def test_an_endless_line_is_cut() -> None:
    log = BuildLog(tail_bytes=100_000)
    for _ in range(100):
        assert log.stdout(b"x" * 65_536) == []
    (event,) = log.stdout(b"\n")
    assert event.line is not None
    assert len(event.line) == MAX_LINE_BYTES


def test_terminal_escapes_do_not_get_through() -> None:
    (event,) = BuildLog(tail_bytes=1000).stderr(b"\x1b[31mred\x07\n")
    assert event.line is not None
    assert event.line.isprintable()


def test_the_tail_is_the_end_and_starts_with_a_whole_line() -> None:
    log = BuildLog(tail_bytes=20)
    log.stderr(b"".join(b"line %d\n" % number for number in range(100)))
    assert log.tail() == "line 98\nline 99"


def test_lines_without_end_are_not_all_told_but_the_last_are_in_the_tail() -> None:
    log = BuildLog(tail_bytes=100)
    events = [event for number in range(3 * MAX_EVENTS) for event in log.stderr(b"line %d\n" % number)]
    assert len(events) == MAX_EVENTS + 1
    assert "left out" in (events[-1].line or "")
    assert log.tail().endswith(f"line {3 * MAX_EVENTS - 1}")


@given(st.lists(st.binary(max_size=5000), max_size=20), st.integers(1, 500))
def test_whatever_comes_the_log_is_bounded(chunks: list[bytes], tail_bytes: int) -> None:
    log = BuildLog(tail_bytes=tail_bytes)
    for chunk in chunks:
        for event in (*log.stdout(chunk), *log.stderr(chunk)):
            assert event.phase in ("install", "compile")
            assert event.line is not None
            assert len(event.line) <= MAX_LINE_BYTES
    assert len(log.tail().encode()) <= tail_bytes * 3  # a cut character may become a replacement of three bytes
