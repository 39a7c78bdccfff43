"""The addresses that this host's interfaces have, as the kernel lists them."""

import re
from ipaddress import IPv6Address
from pathlib import Path


def own_addresses() -> list[str]:
    """Those of both families, loopback's too; link-local IPv6 ones without their zone."""
    routes = Path("/proc/net/fib_trie").read_text()
    found = set(re.findall(r"\|-- ([0-9.]+)\n */32 host LOCAL", routes))
    with_zones = Path("/proc/net/if_inet6")
    if with_zones.exists():
        found |= {str(IPv6Address(int(line.split()[0], 16))) for line in with_zones.read_text().splitlines()}
    return sorted(found)
