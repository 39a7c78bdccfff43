"""The driver's process: who connects is looked at, asks for one thing, and is answered. Who goes away ends what it asked for."""

import asyncio
import os
import signal
import socket
from contextlib import aclosing, suppress

from orchestrator.driver import door, messages, wire
from orchestrator.driver.door import Door
from orchestrator.driver.faults import told
from orchestrator.driver.messages import Build, Failed, Malformed, OpenLink, Reply, Verb
from orchestrator.driver.service import LinkingBackend, Service
from orchestrator.errors import Defect, KodouError
from orchestrator.preparation import Preparation
from orchestrator.sandboxes.link import peer_uid
from orchestrator.settings import Settings
from orchestrator.telemetry import log

# Beside those that wait for a turn at a start or a build: a server asks for few things at once.
MAX_CONNECTIONS = 1024
VERB_S = 10.0  # for a verb to arrive
REPLY_S = 30.0  # for a reply to be taken
_ACCEPT_RETRY_S = 1.0
_ENDS_SOMETHING = (messages.Stop, messages.Remove)  # carried out also where nobody waits for the reply any more


class _Vanished(Exception):
    """Who asked is gone, or takes no reply."""


async def serve(settings: Settings, backend: LinkingBackend) -> None:
    """Serve at `settings.driver_socket` until SIGTERM or SIGINT; sandboxes go on running. Builds under way are ended.
    Raises `KodouError` for what keeps it from starting."""
    if settings.driver_socket is None:
        msg = "say where the driver listens: --socket, or KODOU_DRIVER_SOCKET"
        raise KodouError(msg)
    service = Service(settings, backend)
    try:
        with door.claimed(settings.data_dir):
            await service.take_up()
            with door.opened(settings.driver_socket, settings) as opened:
                await _until_signal(DriverServer(service, opened), service, settings)
    finally:
        await service.aclose()


async def _until_signal(server: "DriverServer", service: Service, settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    preparation = Preparation(settings, service)
    preparation.start()
    accepting = asyncio.create_task(server.accept())
    accepting.add_done_callback(lambda _: stopping.set())
    log.info("driver_listens", socket=str(settings.driver_socket), pid=os.getpid())
    try:
        await stopping.wait()
    finally:
        accepting.cancel()
        with suppress(asyncio.CancelledError):
            await accepting
        await server.aclose()
        await preparation.aclose()


class DriverServer:
    """The connections to one service."""

    def __init__(self, service: Service, opened: Door) -> None:
        self._service = service
        self._door = opened
        self._conversations: set[asyncio.Task[None]] = set()

    async def accept(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._door.listener)
            except OSError as exc:  # no descriptor or memory is free: they come back
                log.warning("driver_accept_failed", error=str(exc))
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            if self._admits(connection):
                task = asyncio.create_task(self._converse(connection))
                self._conversations.add(task)
                task.add_done_callback(self._conversations.discard)
            else:
                connection.close()

    async def aclose(self) -> None:
        """End all conversations, and what they asked for."""
        tasks = tuple(self._conversations)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _admits(self, connection: socket.socket) -> bool:
        uid = peer_uid(connection)
        if uid not in self._door.uids:
            log.warning("driver_foreign_peer", uid=uid)
            return False
        if len(self._conversations) >= MAX_CONNECTIONS:
            log.warning("driver_too_many_connections", most=MAX_CONNECTIONS)
            return False
        return True

    async def _converse(self, connection: socket.socket) -> None:
        with connection:
            try:
                async with asyncio.timeout(VERB_S):
                    verb = messages.read_verb(await wire.receive(connection, messages.MAX_VERB_BYTES))
            except (TimeoutError, EOFError, OSError):
                return
            except Malformed as exc:
                log.warning("driver_verb_refused", error=str(exc)[:500])
                with suppress(_Vanished):
                    await _send(connection, told(Defect(str(exc))))
                return
            await self._attend(connection, verb)

    async def _attend(self, connection: socket.socket, verb: Verb) -> None:
        """Carry a verb out for as long as who asked for it is there."""
        work = asyncio.create_task(self._answer(connection, verb))
        # Nothing more is said on a connection, so whatever comes is its end.
        parting = asyncio.create_task(_hear(connection))
        try:
            await asyncio.wait({work, parting}, return_when=asyncio.FIRST_COMPLETED)
            if isinstance(verb, _ENDS_SOMETHING):
                await asyncio.wait({work})
        finally:
            work.cancel()
            parting.cancel()
            await asyncio.gather(work, parting, return_exceptions=True)

    async def _answer(self, connection: socket.socket, verb: Verb) -> None:
        """The edge at which every error becomes a reply."""
        with suppress(_Vanished):
            try:
                match verb:
                    case OpenLink():
                        await self._hand_over(connection, verb)
                        return
                    case Build():
                        async with aclosing(self._service.build(verb)) as events:  # type: ignore[type-var]
                            async for event in events:
                                await _send(connection, messages.Progress(event))
                        reply: Reply = messages.Done()
                    case _:
                        reply = await self._service.answer(verb)
            except KodouError as exc:
                reply = _failed(verb, exc)
            except _Vanished:
                raise
            except Exception as exc:  # whatever nobody foresaw ends one verb, and never the driver
                log.exception("driver_failed", verb=type(verb).__name__)
                reply = told(Defect(str(exc)))
            await _send(connection, reply)

    async def _hand_over(self, connection: socket.socket, verb: OpenLink) -> None:
        link = await self._service.open_link(verb.sandbox_id)
        try:
            reply = messages.Linked(peer_uid=link.peer_uid, reopened=link.reopened)
            wire.send_with_descriptor(connection, messages.encode(reply), link.fileno())
        except OSError as exc:
            raise _Vanished from exc
        finally:
            link.close()


def _failed(verb: Verb, error: KodouError) -> Failed:
    if isinstance(error, Defect):
        log.error("driver_defect", verb=type(verb).__name__, error=error.detail[:2000])
    return told(error)


async def _send(connection: socket.socket, reply: Reply) -> None:
    try:
        async with asyncio.timeout(REPLY_S):
            await wire.send(connection, messages.encode(reply))
    except (OSError, TimeoutError) as exc:
        raise _Vanished from exc


async def _hear(connection: socket.socket) -> None:
    with suppress(OSError):
        await asyncio.get_running_loop().sock_recv(connection, 1)
