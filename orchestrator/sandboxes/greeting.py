"""Waiting for a runner to connect and greet, while its sandbox may end instead."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from orchestrator.errors import SandboxLost

# Between two looks at a sandbox whose runner has not connected yet.
_LOOK_S = 0.5


class Greeted(Protocol):
    """A channel that waits for a greeting."""

    greeted: asyncio.Future[None]

    async def aclose(self) -> None: ...


async def await_greeting(
    channel: Greeted, sandbox_id: str, timeout_s: float, ended: Callable[[], Awaitable[str | None]] | None
) -> None:
    """Until process 1 of the sandbox has greeted.

    Args:    ended: says why the sandbox is no more, or None; asked now and then, so that no dead one is waited for.
    Raises:  SandboxLost: no greeting came in time, or one that is not what it has to be. The channel is closed then.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while not (await asyncio.wait([channel.greeted], timeout=_LOOK_S))[0]:
                reason = await ended() if ended is not None else None
                if reason is not None:
                    msg = f"sandbox {sandbox_id} ended before its runner connected: {reason}"
                    raise SandboxLost(msg)
            channel.greeted.result()
    except BaseException as exc:
        channel.greeted.cancel()
        await channel.aclose()
        if isinstance(exc, TimeoutError):
            msg = f"the runner of sandbox {sandbox_id} did not connect within {timeout_s:g} s"
            raise SandboxLost(msg) from None
        raise
