"""A server that ends, in order or not, loses no session: the next one on its data directory takes sandboxes up again."""

import asyncio
import signal
import time
from typing import Any

import httpx
import pytest

from orchestrator.sandboxes.selection import select_backend
from orchestrator.settings import Settings
from tests.servers import running


def end(server: Any, how: signal.Signals) -> None:
    server.process.send_signal(how)
    server.process.wait(20)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_server_goes_on_with_sessions_and_their_state(server: Any, how: signal.Signals) -> None:
    with running(server.backend, KODOU_KEEP_SESSIONS="1") as restarted:
        session = restarted.session(env={"MARK": "kept"})
        session.value("sys.setrecursionlimit", 4321)
        worker = session.value("os.getpid")
        end(restarted, how)
        with pytest.raises(httpx.TransportError):
            session.call("math.sqrt", 4)
        restarted.start()
        assert session.value("os.getpid") == worker
        assert session.value("sys.getrecursionlimit") == 4321
        assert session.value("os.getenv", "MARK") == "kept"
        session.close()
        assert session.post("math.sqrt", 4).status_code == 404


def test_a_sandbox_that_ended_meanwhile_is_not_taken_for_one_that_lives(server: Any) -> None:
    with running(server.backend, KODOU_KEEP_SESSIONS="1", KODOU_ORPHAN_S="1") as restarted:
        session, other = restarted.session(), restarted.session("bob")
        end(restarted, signal.SIGKILL)
        # After its time without a server, the sandbox ends by itself: a client must not be told otherwise.
        _wait_until_gone(restarted)
        restarted.start()
        for lost in (session, other):
            assert (lost.post("math.sqrt", 4).status_code, lost.post("math.sqrt", 4).json()["code"]) == (
                410,
                "session_expired",
            )
        assert restarted.session().value("math.sqrt", 4) == 2.0


def _wait_until_gone(server: Any) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if not _alive(server):
            return
        time.sleep(0.2)
    pytest.fail("sandboxes outlive their time without a server")


def _alive(server: Any) -> bool:
    """Whether a sandbox of this server runs, as its backend sees it from a process of its own."""

    async def running() -> bool:
        settings = Settings(data_dir=server.data_dir, backend=server.backend, allow_process_backend=True)
        backend = await select_backend(settings)
        try:
            found = await backend.owned({})
            return any([(await backend.inspect(sandbox)).running for sandbox in found])
        finally:
            await backend.aclose()

    return asyncio.run(running())
