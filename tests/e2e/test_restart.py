"""A server that ends in order loses no session: the next one on its data directory takes sandboxes up again.

Crashes are drills: `tests/drills/test_crashes.py`, `test_restarts.py`.
"""

import signal
from typing import Any

import httpx
import pytest

from tests.servers import STOP_S, running


def test_a_restarted_server_goes_on_with_sessions_and_their_state(server: Any) -> None:
    with running(server.backend, KODOU_KEEP_SESSIONS="1") as restarted:
        session = restarted.session(env={"MARK": "kept"})
        session.value("sys.setrecursionlimit", 4321)
        worker = session.value("os.getpid")
        restarted.process.send_signal(signal.SIGTERM)
        assert restarted.process.wait(STOP_S) == 0
        with pytest.raises(httpx.TransportError):
            session.call("math.sqrt", 4)
        restarted.start()
        assert session.value("os.getpid") == worker
        assert session.value("sys.getrecursionlimit") == 4321
        assert session.value("os.getenv", "MARK") == "kept"
        session.close()
        assert session.post("math.sqrt", 4).status_code == 404
