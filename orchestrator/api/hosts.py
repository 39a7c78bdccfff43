"""The Host header: whom a request was meant for.

A page of another site can make its own name point at this server's address (DNS rebinding) and is then, to the browser,
of one origin with it. The Host header still holds that name.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address

from orchestrator.api.problems import MalformedRequest, MisdirectedRequest
from orchestrator.settings import LOOPBACK, Settings

ANY = "*"

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")

Check = Callable[[bytes | None, str | None], None]


def checker(settings: Settings) -> Check:
    """What to give each request's Host header and HTTP version to.

    Raises: (the check) MalformedRequest: no host, or none that can be. MisdirectedRequest: not one of this server's.
    """
    listed = {name.lower() for name in settings.allowed_hosts}
    anyone = ANY in listed or (settings.allow_remote and not listed)
    names = listed | LOOPBACK | {settings.host.lower()}

    @lru_cache(maxsize=256)
    def check(host: bytes | None, http_version: str | None) -> None:
        if host is None:
            if http_version == "1.0":
                return
            msg = "the Host header is missing"
            raise MalformedRequest(msg)
        found = _HOST.fullmatch(host.decode("latin-1"))
        if found is None:
            msg = "the Host header holds no host"
            raise MalformedRequest(msg)
        name = found["name"].strip("[]").lower()
        if not (anyone or name in names or name.endswith(".localhost") or _is_address(name)):
            msg = "the Host header names another host; an operator lists this server's names in KODOU_ALLOWED_HOSTS"
            raise MisdirectedRequest(msg)

    return check


def _is_address(name: str) -> bool:
    """An address cannot be pointed elsewhere."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
