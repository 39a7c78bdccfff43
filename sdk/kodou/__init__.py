"""Python client of kodou: call functions of any library in a sandbox, by name.

    from kodou import Client, step

    with Client() as client, client.setup(["numpy"]) as session:  # KODOU_URL, KODOU_TOKEN
        session.call("math.sqrt", 9)
        session.call(["numpy", step("array", [2, 4, 6]), "sum"])

`kodou.aio` holds the same for asyncio and trio, `kodou.errors` what can go wrong.
"""

from kodou.aio import AsyncClient
from kodou.client import Client
from kodou.errors import CallFailed, KodouError, Refused, RemoteError, Unavailable
from kodou.protocol import Environment, Progress, Reply, step
from kodou.session import AsyncSession, Session

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "CallFailed",
    "Client",
    "Environment",
    "KodouError",
    "Progress",
    "Refused",
    "RemoteError",
    "Reply",
    "Session",
    "Unavailable",
    "step",
]
