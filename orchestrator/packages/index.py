"""Where packages may come from: the one index and the hosts its files lie on."""

from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit, urlunsplit

from orchestrator.settings import Settings

DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Index:
    """The index, its credentials apart, so that no text made from `url` gives them away."""

    url: str  # without credentials
    origin: tuple[str, str, int]  # scheme, host, port
    credentials: tuple[str, str] | None  # user, password
    schemes: frozenset[str]
    authorities: frozenset[tuple[str, int]]  # host, port: the index and its file hosts

    @classmethod
    def of(cls, settings: Settings) -> "Index":
        parts = urlsplit(settings.index_url)
        host, port = _authority(parts)
        schemes = frozenset({"https", parts.scheme})
        files = set()
        for name in settings.index_file_hosts:
            other = urlsplit(f"//{name}")
            ports = {other.port} if other.port is not None else {DEFAULT_PORTS[scheme] for scheme in schemes}
            files |= {((other.hostname or "").lower(), each) for each in ports}
        return cls(
            url=urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])),
            origin=(parts.scheme, host, port),
            credentials=(parts.username, parts.password or "") if parts.username is not None else None,
            schemes=schemes,
            authorities=frozenset({(host, port), *files}),
        )

    def permits(self, url: str) -> bool:
        """A file may be fetched from there: a scheme, host and port of ours, and no credentials."""
        try:
            parts = urlsplit(url)
            authority = _authority(parts)
        except (ValueError, KeyError):
            return False
        return parts.scheme in self.schemes and "@" not in parts.netloc and authority in self.authorities

    def is_origin(self, url: str) -> bool:
        """The index's own host: the only one its credentials are for."""
        parts = urlsplit(url)
        return (parts.scheme, *_authority(parts)) == self.origin


def _authority(parts: SplitResult) -> tuple[str, int]:
    return (parts.hostname or "").lower(), parts.port or DEFAULT_PORTS[parts.scheme]
