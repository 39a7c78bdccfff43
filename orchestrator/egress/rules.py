"""What the operator allows sessions with egress, as plain data: it crosses from the server to the proxy's process."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_network

from orchestrator.egress.addresses import Network


@dataclass(frozen=True, slots=True)
class Rules:
    """See the settings of the same names, with `egress_` before them."""

    ports: Sequence[int] = (80, 443)
    hosts: Sequence[str] = ()  # lower case; "*.example.org" stands for all below; none: any
    allowed_networks: Sequence[Network] = ()
    denied_networks: Sequence[Network] = ()
    proxy: str | None = None
    max_connections: int = 2048
    max_connections_per_sandbox: int = 64
    connect_timeout_s: float = 20.0
    idle_timeout_s: float = 120.0
    mb_per_s: float = 32.0

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Rules":
        rules = cls(**json.loads(text))
        return replace(
            rules,
            allowed_networks=[ip_network(each) for each in rules.allowed_networks],
            denied_networks=[ip_network(each) for each in rules.denied_networks],
        )
