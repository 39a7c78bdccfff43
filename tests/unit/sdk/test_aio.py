"""Environments in async code: the same expressions, awaited."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import httpx
import kodou
import numpy as np
import pytest
from kodou import Output, Reply

from tests.unit.sdk.loopback import Loopback

pytestmark = pytest.mark.anyio

MISLED: list[Callable[[Any], Any]] = [bool, lambda it: it == 1, lambda it: it != 1, np.asarray]
NO_CONTAINER: list[Callable[[Any], Any]] = [iter, list, lambda it: 1 in it]


async def test_an_expression_is_awaited(aenv: kodou.aio.Environment, loopback: Loopback) -> None:
    assert await aenv.numpy.array([2, 4, 6]).sum() == 12
    assert await aenv.math.pi.value() == 3.141592653589793
    assert (await aenv.numpy.sum(np.arange(4)).reply()).type == "numpy.int64"
    assert await (aenv.numpy.array | aenv.numpy.sum)([1, 2]) == 3
    assert await aenv.map(aenv.len, ["a", "bc"]) == [1, 2]
    assert await aenv.dict(a=aenv.len("ab")) == {"a": 2}


async def test_it_is_evaluated_once(aenv: kodou.aio.Environment, loopback: Loopback) -> None:
    number, failing = aenv.random.random(), aenv.math.sqrt(-1)
    assert await number == await number.value() == (await number.reply()).value
    for _ in range(2):
        with pytest.raises(kodou.RemoteError, match="math domain error"):
            await failing
    assert len(loopback.calls) == 2


async def test_nothing_else_evaluates(aenv: kodou.aio.Environment, loopback: Loopback) -> None:
    total = aenv.numpy.array([2, 4, 6]).sum()
    assert repr(total) == "<numpy.array([2, 4, 6]).sum()>"
    assert loopback.calls == []
    assert await total == 12


async def test_what_would_mislead_says_to_await_it(aenv: kodou.aio.Environment) -> None:
    for waiting in (aenv.math.pi, await aenv.list([1]).keep(), aenv.list | aenv.sum):
        for misled in MISLED:
            with pytest.raises(TypeError, match="`await` it"):
                misled(waiting)
        for misled in NO_CONTAINER:
            with pytest.raises(TypeError, match=r"not iterable|not a container"):
                misled(waiting)


async def test_a_call_that_nobody_awaits_is_warned_about(aenv: kodou.aio.Environment) -> None:
    with pytest.warns(RuntimeWarning, match=r"math\.sqrt\(4\) was never evaluated; `await` does it"):
        aenv.math.sqrt(4)


async def test_several_are_gathered(aenv: kodou.aio.Environment) -> None:
    assert await asyncio.gather(aenv.len("a"), aenv.math.sqrt(4)) == [1, 2]


async def test_it_opens_once(loopback: Loopback) -> None:
    async with kodou.AsyncClient("http://host", "token", transport=loopback) as client:
        async with kodou.aio.Environment(client=client) as env:
            pass
        with pytest.raises(RuntimeError, match="opens once"):
            await env.open()


async def test_a_handle_is_kept_and_dropped(aenv: kodou.aio.Environment, loopback: Loopback) -> None:
    async def use() -> None:
        items = await aenv.list([1]).keep()
        assert repr(items) == "<r1, list: [1]>"
        await items.append(2)
        assert await items == [1, 2]
        with await aenv.list([5]).keep() as other:
            assert await aenv.sum(other) == 5

    await use()
    gc.collect()
    assert await aenv.len("a") == 1
    assert sorted(loopback.calls[-1]["drop"]) == ["r1", "r2"]


async def test_an_expression_streams(aenv: kodou.aio.Environment, loopback: Loopback) -> None:
    text = b'event: output\ndata: {"stdout": "x"}\n\nevent: result\ndata: {"error": false, "value": 3}\n\n'
    loopback.answers = [httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=text)]
    assert [told async for told in aenv.print("x").stream()] == [Output("x"), Reply(3)]
    with pytest.raises(kodou.errors.NameNotFound):
        _ = [told async for told in aenv.no_such_name().stream()]


async def test_names_are_described(aenv: kodou.aio.Environment) -> None:
    assert (await aenv.describe(aenv.math.sqrt)).kind == "function"


async def test_it_has_to_be_open(loopback: Loopback) -> None:
    env = kodou.aio.Environment(client=kodou.AsyncClient("http://host", "token", transport=loopback))
    with pytest.raises(RuntimeError, match="not open"):
        await env.math.sqrt(4)
