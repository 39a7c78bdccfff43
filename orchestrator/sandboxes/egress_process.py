"""The egress proxy's process (`orchestrator.egress`), as who starts it sees it."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable

from orchestrator.egress.rules import Rules
from orchestrator.settings import Settings
from orchestrator.telemetry import log

_MESSAGE_BYTES = 64 * 1024
_SEND_S = 10.0
_END_S = 5.0


class ProxyProcess:
    """The process, and the socket over which it is told what to do. It ends when that is closed, so with this process."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def started(cls, settings: Settings) -> "ProxyProcess":
        """Raises `OSError`."""
        started = cls(*await asyncio.to_thread(_spawn, settings))
        try:
            await started._send(rules_of(settings).to_json())
        except BaseException:
            await started.end()
            raise
        return started

    async def open(self, sandbox_id: str, listener: socket.socket) -> None:
        await self._send(json.dumps({"verb": "open", "sandbox": sandbox_id}), listener.fileno())

    async def close(self, sandbox_id: str) -> None:
        await self._send(json.dumps({"verb": "close", "sandbox": sandbox_id}))

    def listen(self, *, on_end: Callable[[], None]) -> None:
        self._loop.add_reader(self._control.fileno(), self._hear, on_end)

    async def end(self) -> None:
        """May be called twice."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
        self._control.close()
        await asyncio.to_thread(_end, self._process)

    async def _send(self, message: str, *descriptors: int) -> None:
        try:
            await asyncio.to_thread(socket.send_fds, self._control, [message.encode()], descriptors)
        except OSError:
            self._process.kill()  # it has ended, or takes nothing more: it is started anew once its end is seen
            raise

    def _hear(self, on_end: Callable[[], None]) -> None:
        try:
            message = self._control.recv(_MESSAGE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message:
            _tell(message)
        else:
            self._loop.remove_reader(self._control.fileno())
            on_end()


def rules_of(settings: Settings) -> Rules:
    return Rules(
        ports=settings.egress_ports,
        hosts=settings.egress_hosts,
        allowed_networks=settings.egress_allowed_networks,
        denied_networks=settings.egress_denied_networks,
        proxy=settings.egress_proxy,
        max_connections=settings.egress_max_connections,
        max_connections_per_sandbox=settings.egress_max_connections_per_sandbox,
        connect_timeout_s=settings.egress_connect_timeout_s,
        idle_timeout_s=settings.egress_idle_timeout_s,
        mb_per_s=settings.egress_mb_per_s,
    )


def _spawn(settings: Settings) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # The id after those of sandboxes, so that none of them is ever its.
    uid = [str(settings.sandbox_uid_base + settings.sandbox_uid_count)] if os.geteuid() == 0 else []
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", "orchestrator.egress", str(theirs.fileno()), *uid],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a signal to the terminal's group is the server's to deal with
            )
    except BaseException:
        ours.close()
        raise
    ours.settimeout(_SEND_S)
    return process, ours


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tell(message: bytes) -> None:
    """Log a refusal. The proxy's process is the first that a hole in it would give away, so nothing but text is taken."""
    try:
        told = json.loads(message)
        fields = {name: str(told[name])[:300] for name in ("sandbox", "host", "port", "reason", "more")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    log.info("egress_refused", **fields)
