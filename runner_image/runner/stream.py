"""What a call tells while it runs: events on the worker's connection, before the reply.

Output is told by a thread that looks for it, since programs and code below Python write to descriptors; items of a
generator by the call itself, after the output that came before them.
"""

from __future__ import annotations

import json
import os
from codecs import getincrementaldecoder
from threading import Event, Lock, Thread

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from .capture import Capture

# Between two looks for output.
_LOOK_S = 0.02
# Of output in one event, and of events that are sent together.
_PIECE_BYTES = 64 * 1024
# Between two looks so many items are sent at once, each by itself. What comes faster than that is sent together, at the
# next look at the latest: a write for each would cost more than all else.
_AT_ONCE = 10

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Stream:
    """The events of one call, until `capture` is asked for its output."""

    def __init__(self, sock: socket, call_id: int, capture: Capture, max_output_bytes: int) -> None:
        """`capture` closes it, when it is asked for what the call printed."""
        self._sock = sock
        self._call_id = call_id
        self._capture = capture
        self._pid = os.getpid()
        self._sending = Lock()
        self._unsent = bytearray()
        self._items = 0  # since the last look
        tails = capture.follow(max_output_bytes, self.close)
        self._outputs = [(tail, getincrementaldecoder("utf-8")("replace")) for tail in tails]
        self._closing = Event()
        self._looking = Thread(target=self._look, daemon=True)
        self._looking.start()

    def item(self, index: int, value: bytes) -> None:
        """Tell the next item of a generator; `value` is its JSON. Not for a process that user code forked."""
        self._capture.flush()
        with self._sending:
            self._tell_output()
            self._tell(frames.ITEM, b'{"index":%d,"value":%b}' % (index, value))
            self._items += 1
            if self._items <= _AT_ONCE:
                self._send()

    def close(self) -> None:
        """Tell what is left of the output; nothing is told after it. May be called twice."""
        if self._closing.is_set() or os.getpid() != self._pid:
            return
        self._closing.set()
        self._looking.join()
        with self._sending:
            self._tell_output(last=True)
            self._send()

    def _look(self) -> None:
        while not self._closing.wait(_LOOK_S):
            try:
                with self._sending:
                    self._items = 0
                    self._tell_output()
                    self._send()
            except (OSError, ValueError):  # the connection ended: the call's own reply will find out
                return

    def _tell_output(self, *, last: bool = False) -> None:
        for tail, decoder in self._outputs:
            data = tail.read(_PIECE_BYTES)
            while data or last:
                text = decoder.decode(data, last and not data)
                if text:
                    self._tell(frames.OUTPUT, _encode({tail.name: text}).encode("utf-8", "replace"))
                if not data:
                    break
                data = tail.read(_PIECE_BYTES)

    def _tell(self, kind: int, body: bytes) -> None:
        self._unsent += frames.encode(kind, body, call_id=self._call_id)
        if len(self._unsent) >= _PIECE_BYTES:
            self._send()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, bytearray()
        if unsent:
            self._sock.sendall(unsent)
