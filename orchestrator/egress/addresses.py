"""Which addresses egress may reach: those of the public internet, in none of the ways to write another's address."""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from orchestrator.egress.routes import leads_away

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


# What no setting opens.
_NEVER = _networks(
    "0.0.0.0/8",  # this host
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local, and most clouds' metadata
    "168.63.129.16/32",  # Azure's agent, on an address that looks public
    "224.0.0.0/4",  # multicast
    "255.255.255.255/32",
    "::/96",  # unspecified, loopback, and IPv4-compatible
    "fd00:ec2::254/128",  # metadata of AWS
    "fe80::/10",
    "fec0::/10",  # site-local of old
    "ff00::/8",
    "2001::/32",  # Teredo: leads to an IPv4 address inside
    "2002::/16",  # 6to4: the same
)
# What Python takes for global, or did at some time.
_NOT_PUBLIC = _networks("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all of IPv6 that has been given to anyone (IANA)
_NAT64 = IPv6Network("64:ff9b::/96")  # leads to the IPv4 address at its end (RFC 6052)


class AddressRule:
    """`allowed` networks may be reached besides the public ones, `denied` may not. `away`: an address is not this host's
    own; asks the kernel, and raises `OSError` if it cannot."""

    def __init__(
        self,
        allowed: Sequence[Network] = (),
        denied: Sequence[Network] = (),
        *,
        away: Callable[[Address], bool] = leads_away,
    ) -> None:
        self._allowed = tuple(allowed)
        self._denied = tuple(denied)
        self._away = away

    def refusal(self, address: Address) -> str | None:
        """Why it may not be reached, fit for the sandbox to read; None: it may."""
        if isinstance(address, IPv6Address):
            if address.ipv4_mapped is not None:
                return self.refusal(address.ipv4_mapped)
            if address in _NAT64 and (inner := self.refusal(IPv4Address(address.packed[-4:]))) is not None:
                return inner
        if _within(address, _NEVER):
            return "not a public address"
        if _within(address, self._denied):
            return "an address that this server does not allow"
        if not _within(address, self._allowed) and not _is_public(address):
            return "not a public address"
        try:
            return None if self._away(address) else "an address of this server itself"
        except OSError:
            return "an address that cannot be told from this server's own"


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return True  # what it leads to has been looked at
        if address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast and not _within(address, _NOT_PUBLIC)


def _within(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)  # of the other family: it is not
