"""Python client of kodou: call functions of any library in a sandbox.

    import kodou

    with kodou.Environment(["numpy"]) as env:  # KODOU_URL, KODOU_TOKEN
        print(env.numpy.array([2, 4, 6]).sum())

What is written down is an expression; it is evaluated, in one request, once its value is needed (`Expression`). `kodou.aio`
holds the same for asyncio and trio, `kodou.errors` what can go wrong. `Client` and `Session` are the layer below: calls of
namepaths.
"""

from kodou import aio, errors
from kodou.aio import AsyncClient
from kodou.client import Client
from kodou.discovery import Description, Member
from kodou.environment import Environment
from kodou.errors import CallFailed, KodouError, Refused, RemoteError, Unavailable
from kodou.evaluables import Composition, Expression, Handle
from kodou.image import Image
from kodou.messages import EnvironmentInfo, Item, Output, Progress, Reply
from kodou.protocol import step
from kodou.session import AsyncSession, Session

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "CallFailed",
    "Client",
    "Composition",
    "Description",
    "Environment",
    "EnvironmentInfo",
    "Expression",
    "Handle",
    "Image",
    "Item",
    "KodouError",
    "Member",
    "Output",
    "Progress",
    "Refused",
    "RemoteError",
    "Reply",
    "Session",
    "Unavailable",
    "aio",
    "errors",
    "step",
]
