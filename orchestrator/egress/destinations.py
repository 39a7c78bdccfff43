"""Where a session with egress may go, decided anew for each connection, and the connection made to what was decided on."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, ip_address

from orchestrator.egress.addresses import Address, AddressRule
from orchestrator.egress.heads import Rejected, Request
from orchestrator.egress.relay import Streams
from orchestrator.egress.rules import Rules
from orchestrator.egress.upstream import Upstream, connected

Resolver = Callable[[str, int], Awaitable[list[Address]]]  # raises OSError

MOST_ADDRESSES = 4  # of one name that are tried
# Names that mean something else to another machine, or are its own business (RFC 6761, RFC 6762, RFC 8375).
_LOCAL_NAMES = ("localhost", "local", "internal", "home.arpa")
# One text for a name that leads nowhere and one that leads inside: it is not told what names are known here.
_NO_ADDRESS = "the name has no public address"


class Destinations:
    """A `Dialer`. A name is resolved here, once a connection; if one of its addresses is refused, so is the name. What is
    connected to is the address that was looked at, so that it does not matter what the name says a moment later."""

    def __init__(self, rules: Rules, addresses: AddressRule, resolve: Resolver) -> None:
        self._rules = rules
        self._addresses = addresses
        self._resolve = resolve
        self._upstream = None if rules.proxy is None else Upstream(rules.proxy)

    async def __call__(self, request: Request) -> tuple[Streams, bytes]:
        host = request.host.removesuffix(".")
        if request.port not in self._rules.ports:
            raise Rejected(403, f"port {request.port} is not allowed")
        if self._rules.hosts and not any(_matches(host, pattern) for pattern in self._rules.hosts):
            raise Rejected(403, "the host is not allowed")
        literal = _literal(host)
        if literal is not None and (refusal := self._addresses.refusal(literal)) is not None:
            raise Rejected(403, refusal)
        if self._upstream is not None:
            if literal is None and not _is_public_name(host):
                raise Rejected(403, _NO_ADDRESS)
            return await self._upstream.open(request, timeout_s=self._rules.connect_timeout_s)
        found = [literal] if literal is not None else await self._resolved(host, request.port)
        return await self._first(found, request.port), b"" if request.is_tunnel else request.head()

    async def _resolved(self, host: str, port: int) -> list[Address]:
        try:
            async with asyncio.timeout(self._rules.connect_timeout_s):
                found = await self._resolve(host, port)
        except TimeoutError as exc:
            raise Rejected(504) from exc
        except (OSError, ValueError) as exc:
            raise Rejected(403, _NO_ADDRESS) from exc
        if not found or any(self._addresses.refusal(address) is not None for address in found):
            raise Rejected(403, _NO_ADDRESS)
        return found

    async def _first(self, addresses: Sequence[Address], port: int) -> Streams:
        """A connection to the first that answers; the time there is, is shared out."""
        tried = addresses[:MOST_ADDRESSES]
        for address in tried:
            try:
                return await connected(str(address), port, timeout_s=self._rules.connect_timeout_s / len(tried))
            except Rejected:
                if address is tried[-1]:
                    raise
        raise Rejected(502)


class Lookups:
    """A `Resolver` for one sandbox: as this host resolves names, in threads, and `at_once` of them at most, so that names
    that take long to resolve hold up no other sandbox."""

    def __init__(
        self, run: Callable[[Callable[[], list[Address]]], "asyncio.Future[list[Address]]"], at_once: int
    ) -> None:
        self._run = run
        self._free = asyncio.Semaphore(at_once)

    async def __call__(self, host: str, port: int) -> list[Address]:
        await self._free.acquire()
        looking = self._run(lambda: _look_up(host, port))
        # Released when it is over, not when nobody waits for it any more: a thread cannot be stopped.
        looking.add_done_callback(self._over)
        return await asyncio.shield(looking)

    def _over(self, looking: "asyncio.Future[list[Address]]") -> None:
        self._free.release()
        if not looking.cancelled():
            looking.exception()  # or it would be said that nobody asked for it


def _look_up(host: str, port: int) -> list[Address]:
    # Bytes: of a text, Python makes an internationalised name first, with errors of its own.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(ip_address(address[0]) for *_, address in found))


def _literal(host: str) -> Address | None:
    """The address that a host is, also in the old ways to write one ("127.1", "0x7f000001"), which proxies may know too."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _is_public_name(host: str) -> bool:
    return "." in host and not any(host == name or host.endswith(f".{name}") for name in _LOCAL_NAMES)


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
