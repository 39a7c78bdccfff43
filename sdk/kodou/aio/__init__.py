"""kodou for asyncio and trio: as `kodou.Client` and `kodou.Environment`, with `async with`, and evaluated by `await`.

async with kodou.aio.Environment(["numpy"]) as env:
    print(await env.numpy.array([2, 4, 6]).sum())
"""

from kodou.aio.client import AsyncClient
from kodou.aio.environment import Environment
from kodou.aio.evaluables import Composition, Expression, Handle

__all__ = ["AsyncClient", "Composition", "Environment", "Expression", "Handle"]
