"""The SDK against a real server: expressions give what Python gives, in both shells, for values of all kinds."""

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kodou
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kodou.errors import CallTimeout, ReferenceNotFound, RemoteError

from tests.servers import Server

pytestmark = pytest.mark.index
MANY = settings(max_examples=60)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[kodou.Client]:
    with kodou.Client(server.url, server.key("sdk")["api_id"]) as client:
        yield client


@pytest.fixture(scope="module")
def env(client: kodou.Client) -> Iterator[kodou.Environment]:
    with kodou.Environment(["numpy"], client=client) as env:
        yield env


def test_numpy_is_called_by_name(env: kodou.Environment, capsys: pytest.CaptureFixture[str]) -> None:
    print(env.numpy.array([2, 4, 6]).sum())
    assert capsys.readouterr().out == "12\n"


def test_the_build_is_followed(client: kodou.Client) -> None:
    steps: list[kodou.Progress] = []
    with kodou.Environment(["numpy"], client=client, progress=steps.append) as env:
        assert "numpy" in env.session.environment.packages  # type: ignore[union-attr]
    assert all(step.phase for step in steps)


def test_arrays_of_any_size_travel_beside_the_json(env: kodou.Environment) -> None:
    array = np.random.default_rng(0).random((300, 1000))
    doubled = env.numpy.multiply(2, array).value()
    np.testing.assert_array_equal(doubled, 2 * array)
    assert env.len(bytes(3_000_000)) == 3_000_000
    assert env.bytes(2_000_000).value() == bytes(2_000_000)


def test_a_handle_outlives_its_call_but_not_its_interpreter(env: kodou.Environment) -> None:
    items = env.list([1, 2]).keep()
    items.append(3).value()
    assert env.sum(items) == 6
    with pytest.raises(CallTimeout):
        env.time.sleep(60).value(timeout=0.2)
    with pytest.raises(ReferenceNotFound):
        items.value()
    del items
    assert env.len("abc") == 3


def test_a_call_streams_as_it_goes(env: kodou.Environment) -> None:
    *_, reply = env.print("hello").stream()
    told = [*env.print("hello").stream()]
    assert "".join(event.text for event in told if isinstance(event, kodou.Output)) == "hello\n"
    assert isinstance(reply, kodou.Reply)
    items = [event for event in env.iter([5, 6]).stream() if isinstance(event, kodou.Item)]
    assert items == [kodou.Item(0, 5), kodou.Item(1, 6)]
    with pytest.raises(RemoteError):
        list(env.math.sqrt(-1).stream())


def test_replies_tell_what_they_took(env: kodou.Environment) -> None:
    reply = env.math.sqrt(4).reply()
    assert reply.cold == "none"
    assert {"auth", "queue", "run"} <= set(reply.timings)


def test_pipes_go_from_one_environment_to_another(client: kodou.Client, env: kodou.Environment) -> None:
    with kodou.Environment(client=client) as plain:
        assert (env.numpy.arange(4).tobytes() | plain.bytes | plain.len) == 32
        assert (plain.range | env.numpy.array | env.numpy.sum)(5) == 10
        assert plain.len(env.numpy.zeros(3).tobytes()) == 24


def test_a_map_is_spread_over_sandboxes(env: kodou.Environment) -> None:
    assert env.map(env.abs, list(range(-7, 7)), parallel=3) == [abs(number) for number in range(-7, 7)]
    assert env.map(env.numpy.sum, [[1, 2], [3, 4]], parallel=2) == [3, 7]


def test_names_are_completed_and_described(env: kodou.Environment) -> None:
    assert "linspace" in dir(env.numpy)
    assert "dot" in dir(env.numpy.zeros(2).keep())
    assert "square root" in str(env.describe(env.math.sqrt))


def test_a_lock_makes_the_same_environment(client: kodou.Client, env: kodou.Environment) -> None:
    info = env.session.environment
    assert info is not None
    lock = env.session.lock()
    assert lock == client.lock(info.id)
    with kodou.Environment(client=client, lock=json.loads(json.dumps(lock))) as again:
        assert again.session.environment.id == info.id  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="taken up by its id"):
        client.session(env.session.id).lock()


@pytest.mark.anyio
async def test_async_code_awaits_the_same(server: Server) -> None:
    token = server.key("sdk")["api_id"]
    async with kodou.aio.Environment(["numpy"], url=server.url, token=token) as env:
        assert await env.numpy.array([2, 4, 6]).sum() == 12
        kept = await env.numpy.arange(3).keep()
        assert (await (kept | env.map(env.math.sqrt))) == [0.0, 1.0, math.sqrt(2)]
        told = [event async for event in env.iter([1]).stream()]
        assert told[0] == kodou.Item(0, 1)


README = Path(kodou.__file__).parents[1] / "README.md"


@pytest.mark.anyio
async def test_what_the_readme_shows_runs(
    server: Server, env: kodou.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KODOU_URL", server.url)
    monkeypatch.setenv("KODOU_TOKEN", server.key("sdk")["api_id"])
    names = {"kodou": kodou, "env": env, "other": env}
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) > 4
    for block in blocks:
        waiting = eval(compile(block, str(README), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), dict(names))
        if waiting is not None:
            await waiting


# --- any expression ---

NUMBERS = st.integers(-9, 9)
BINARY = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "matmul": lambda a, b: a @ b}
UNARY = {"T": lambda a: a.T, "copy()": lambda a: a.copy(), "cumsum()": lambda a: a.cumsum().reshape(2, 2)}


def matrices() -> st.SearchStrategy[Any]:
    """Trees over matrices of two by two: a list of rows, an attribute or method of a tree, an operator on two."""
    return st.recursive(
        st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=2, max_size=2),
        lambda inner: (
            st.tuples(st.sampled_from(sorted(UNARY)), inner) | st.tuples(st.sampled_from(sorted(BINARY)), inner, inner)
        ),
        max_leaves=5,
    )


def locally(tree: Any) -> Any:
    if isinstance(tree, list):
        return np.array(tree)
    return {**UNARY, **BINARY}[tree[0]](*map(locally, tree[1:]))


def remotely(env: kodou.Environment, tree: Any) -> Any:
    if isinstance(tree, list):
        return env.numpy.array(tree)
    name, *parts = tree
    built = [remotely(env, part) for part in parts]
    if name in BINARY:
        return getattr(env.operator, name)(*built)
    if name == "T":
        return built[0].T
    return built[0].copy() if name == "copy()" else built[0].cumsum().reshape(2, 2)


@MANY
@given(tree=matrices())
def test_any_expression_is_what_numpy_makes_of_it(env: kodou.Environment, tree: Any) -> None:
    np.testing.assert_array_equal(remotely(env, tree).value(), locally(tree))


FUNCTIONS: dict[str, Callable[[Any], Any]] = {"sorted": sorted, "list": list, "tuple": tuple}


@MANY
@given(
    start=st.lists(NUMBERS, max_size=8),
    stages=st.lists(st.sampled_from([*FUNCTIONS, "map", "filter", "sort"]), max_size=4),
)
def test_any_pipeline_is_what_python_makes_of_it(env: kodou.Environment, start: list[int], stages: list[str]) -> None:
    expected: Any = start
    piped: Any = env.list
    for stage in stages:
        if stage == "map":
            expected, piped = [abs(item) for item in expected], piped | env.map(env.abs)
        elif stage == "filter":
            expected, piped = [item for item in expected if item], piped | env.filter(env.bool)
        elif stage == "sort":
            expected, piped = sorted(expected, key=abs), piped | env.sort(env.abs)
        else:
            expected, piped = FUNCTIONS[stage](expected), piped | env[stage]
    assert (start | piped).value() == list(expected)
