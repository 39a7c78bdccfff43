"""Where a request may go, with a resolver that answers as the test says; connections are real."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from orchestrator.egress.addresses import Address, AddressRule
from orchestrator.egress.destinations import Destinations, Lookups
from orchestrator.egress.heads import Rejected, parsed
from orchestrator.egress.rules import Rules

pytestmark = pytest.mark.anyio

PUBLIC = ip_address("8.8.8.8")


class Resolver:
    """Answers with the next of some lists of addresses, and goes on with the last."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = [[ip_address(address) for address in answer] for answer in answers]
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if not answer:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return answer


class Connections:
    """What was connected to. Nothing is: each connection is refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, int]] = []
        monkeypatch.setattr("orchestrator.egress.destinations.connected", self._connected)

    async def _connected(self, host: str, port: int, *, timeout_s: float) -> object:
        self.made.append((host, port))
        raise Rejected(502)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Connections:
    return Connections(monkeypatch)


def destinations(resolver: Resolver, **rules: object) -> Destinations:
    return Destinations(replace(Rules(), **rules), AddressRule(away=lambda _: True), resolver)  # type: ignore[arg-type]


async def rejection(where: Destinations, target: str) -> Rejected:
    with pytest.raises(Rejected) as caught:
        await where(parsed(f"CONNECT {target} HTTP/1.1".encode()))
    return caught.value


async def test_what_is_connected_to_is_the_address_that_was_looked_at(connections: Connections) -> None:
    resolver = Resolver(["8.8.8.8"])
    assert (await rejection(destinations(resolver), "example.org:443")).status == 502
    assert connections.made == [("8.8.8.8", 443)]
    assert resolver.asked == ["example.org"]


async def test_a_name_that_says_something_else_a_moment_later_gains_nothing(connections: Connections) -> None:
    where = destinations(Resolver(["8.8.8.8"], ["127.0.0.1"]))
    assert (await rejection(where, "rebinding.example:443")).status == 502
    assert (await rejection(where, "rebinding.example:443")).status == 403
    assert connections.made == [("8.8.8.8", 443)]


@pytest.mark.parametrize(
    "answer",
    [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"], ["8.8.8.8", "::1"], ["::ffff:10.0.0.1"], []],
)
async def test_a_name_with_an_address_that_is_refused_is_refused(answer: list[str], connections: Connections) -> None:
    rejected = await rejection(destinations(Resolver(answer)), "mixed.example:443")
    assert (rejected.status, rejected.reason) == (403, "the name has no public address")  # which, is not told
    assert connections.made == []


async def test_addresses_are_tried_in_turn(connections: Connections) -> None:
    await rejection(destinations(Resolver(["8.8.8.8", "2606:4700::1", "1.1.1.1"])), "example.org:80")
    assert connections.made == [("8.8.8.8", 80), ("2606:4700::1", 80), ("1.1.1.1", 80)]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::1]", "10.0.0.1."])
async def test_literal_addresses_are_looked_at_however_they_are_written(host: str, connections: Connections) -> None:
    resolver = Resolver(["8.8.8.8"])
    for rules in ({}, {"proxy": "http://127.0.0.1:1"}):
        assert (await rejection(destinations(resolver, **rules), f"{host}:443")).status == 403
    assert (resolver.asked, connections.made) == ([], [])


async def test_only_ports_and_hosts_that_are_listed_are_reached(connections: Connections) -> None:
    where = destinations(Resolver(["8.8.8.8"]), ports=[443], hosts=["example.org", "*.example.com"])
    for refused in ("example.org:80", "www.example.org:443", "example.com:443", "badexample.com:443", "8.8.8.8:443"):
        assert (await rejection(where, refused)).status == 403
    assert connections.made == []
    for allowed in ("example.org:443", "EXAMPLE.org.:443", "a.b.example.com:443"):
        assert (await rejection(where, allowed)).status == 502
    assert len(connections.made) == 3


@pytest.mark.parametrize(
    "host", ["localhost", "a.localhost", "intranet", "printer.local", "db.internal", "nas.home.arpa"]
)
async def test_the_operators_proxy_is_asked_for_no_local_name(host: str) -> None:
    where = destinations(Resolver([]), proxy="http://127.0.0.1:1")
    assert (await rejection(where, f"{host}:443")).status == 403


@asynccontextmanager
async def listening(heads: list[bytes]) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 yes\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_names_go_on_to_the_operators_proxy_unresolved() -> None:
    heads: list[bytes] = []
    resolver = Resolver([])
    async with listening(heads) as port:
        where = destinations(resolver, proxy=f"http://127.0.0.1:{port}")
        streams, first = await where(parsed(b"CONNECT example.org:443 HTTP/1.1"))
        await streams.close()
    assert (first, resolver.asked) == (b"", [])
    assert heads == [b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"]


async def test_a_name_that_takes_too_long_is_not_waited_for() -> None:
    async def never(host: str, port: int) -> list[Address]:
        await asyncio.get_running_loop().create_future()
        return []

    where = Destinations(replace(Rules(), connect_timeout_s=0.05), AddressRule(), never)
    assert (await rejection(where, "slow.example:443")).status == 504


async def test_lookups_that_nobody_waits_for_any_more_still_take_their_place() -> None:
    began: asyncio.Queue[asyncio.Future[list[Address]]] = asyncio.Queue()

    def run(_: object) -> asyncio.Future[list[Address]]:
        looking: asyncio.Future[list[Address]] = asyncio.get_running_loop().create_future()
        began.put_nowait(looking)
        return looking

    lookups = Lookups(run, 1)
    first = asyncio.create_task(lookups("a", 1))
    first_began = await asyncio.wait_for(began.get(), 60)
    first.cancel()
    await asyncio.wait({first}, timeout=60)
    second = asyncio.create_task(lookups("b", 1))
    await asyncio.wait({second}, timeout=0.05)
    assert began.empty()
    first_began.set_result([])
    second_began = await asyncio.wait_for(began.get(), 60)
    second_began.set_result([PUBLIC])
    assert await second == [PUBLIC]


async def test_this_host_resolves_names() -> None:
    loop = asyncio.get_running_loop()
    found = await Lookups(lambda work: loop.run_in_executor(None, work), 1)("localhost", 80)
    assert all(address.is_loopback for address in found)
    assert found


def test_rules_cross_to_another_process_as_they_are() -> None:
    rules = Rules(
        ports=[1],
        hosts=["a"],
        allowed_networks=[ip_network("10.0.0.0/8"), ip_network("fd00::/8")],
        denied_networks=[ip_network("8.8.0.0/16")],
        proxy="http://p",
    )
    assert Rules.from_json(rules.to_json()) == rules
