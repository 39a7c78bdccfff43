"""Expressions: what is built up evaluates as Python would, in as few requests as can be."""

import copy
import gc
import math
import operator
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import kodou
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kodou.errors import AttributeNotFound, RemoteError, ValueNotSerializable
from kodou.expressions import use

from tests.unit.sdk.loopback import Loopback

# --- what is sent ---


def test_building_up_asks_nothing_and_evaluating_asks_once(env: kodou.Environment, loopback: Loopback) -> None:
    before = len(loopback.requests)
    total = env.numpy.array([2, 4, 6]).sum()
    assert len(loopback.requests) == before
    assert total.value() == 12
    assert loopback.calls == [
        {
            "sessionid": "session-0",
            "namepath": ["numpy", {"name": "array", "args": [[2, 4, 6]]}, {"name": "sum", "args": []}],
        }
    ]


def test_an_expression_is_evaluated_once(env: kodou.Environment, loopback: Loopback) -> None:
    number = env.random.random()
    assert number == number.value() == float(number)
    assert str(number) == repr(number) == f"{number}"
    assert len(loopback.calls) == 1


def test_a_timeout_is_the_calls_or_that_of_the_environment(client: kodou.Client, loopback: Loopback) -> None:
    with kodou.Environment(client=client, timeout=3) as env:
        assert env.math.sqrt(4).value() == 2
        assert env.math.sqrt(9).value(timeout=1.5) == 3
    assert [call["timeout"] for call in loopback.calls] == [3000, 1500]


def test_an_expression_as_last_argument_is_a_stage_of_the_same_request(
    env: kodou.Environment, loopback: Loopback
) -> None:
    assert env.math.pow(2, env.math.sqrt(env.numpy.array([9]).item())).value() == 8
    assert len(loopback.calls) == 1
    assert loopback.calls[0]["pipeline"] == [
        ["numpy", {"name": "array", "args": [[9]]}, {"name": "item", "args": []}],
        ["math", {"name": "sqrt", "args": []}],
        ["math", {"name": "pow", "args": [2]}],
    ]


def test_other_expressions_among_the_arguments_are_kept_first(env: kodou.Environment, loopback: Loopback) -> None:
    assert env.dict(a=env.list([1]), b=[env.len("ab")]).value() == {"a": [1], "b": [2]}
    assert [call.get("keep") for call in loopback.calls] == [True, True, None]


def test_an_expression_that_stands_among_the_arguments_twice_is_run_once(env: kodou.Environment) -> None:
    number = env.random.random()
    assert env.operator.eq(number, number)
    assert env.operator.eq(env.abs(number), env.float(number))
    same = env.operator.eq(env.list([number]), env.list([number]))
    assert same.value() is True


# --- what comes of it ---


def test_a_bare_name_is_what_it_names_and_is_not_called(env: kodou.Environment) -> None:
    assert env.math.pi == math.pi
    assert env["xml.etree.ElementTree"].VERSION == "1.3.0"
    assert repr(env.math.sqrt) == "<built-in function sqrt>"
    assert repr(env.len) == "<built-in function len>"
    assert repr(env.math).startswith("<module 'math'")
    with pytest.raises(ValueNotSerializable):
        env.os.getpid.value()


def test_an_attribute_at_the_end_is_not_called(env: kodou.Environment) -> None:
    array = env.numpy.arange(6).reshape(2, 3)
    assert array.shape == [2, 3]
    assert array.T.shape == [3, 2]
    assert repr(array.tolist).startswith("<built-in method tolist")


def test_a_function_as_an_argument_is_that_function(env: kodou.Environment) -> None:
    assert env.functools.reduce(env.operator.add, [1, 2, 3]) == 6
    assert env.sorted(["b", "A"], key=env.str.lower) == ["A", "b"]
    assert env.list(env.map(env.len, ["a", "bc"])) == [1, 2]


def test_own_names_and_underscores_are_reached_by_attr(env: kodou.Environment) -> None:
    assert env.inspect.Parameter("x", 1).attr("_kind") == 1
    assert env["map"].attr("__name__") == "map"
    with pytest.raises(AttributeError, match=r"attr\('_secret'\) reaches"):
        env.math._secret  # noqa: B018
    with pytest.raises(AttributeError, match=r"env\['_secret'\] reaches"):
        env._secret  # noqa: B018


def test_subscripts_are_those_of_the_value(env: kodou.Environment) -> None:
    array = env.numpy.arange(12).reshape(3, 4)
    assert env.dict(a=1)["a"] == 1
    assert array[1, 2] == 6
    assert array[0][1:3].value().tolist() == [1, 2]
    assert array[1:, 0].value().tolist() == [4, 8]
    assert array[..., 1].value().tolist() == [1, 5, 9]


def test_what_was_called_can_be_called_again(env: kodou.Environment) -> None:
    assert env.operator.itemgetter(1)([5, 6]) == 6
    assert env.functools.partial(env.pow, 2)(5) == 32


def test_values_stand_where_python_wants_values(env: kodou.Environment) -> None:
    three = env.len([1, 2, 3])
    assert int(three) == 3
    assert float(three) == 3.0
    assert three == 3
    assert three != 4
    assert 2 < three <= 3
    assert 4 > three >= env.len([1, 2])
    assert bool(env.len([])) is False
    assert list(env.list("ab")) == ["a", "b"]
    assert len(env.list("ab")) == 2
    assert "a" in env.list("ab")
    assert "abcd"[three] == "d"
    assert list(range(three)) == [0, 1, 2]
    assert f"{three:03d} {three}" == "003 3"
    assert np.asarray(env.numpy.arange(2)).tolist() == [0, 1]
    assert np.asarray(env.list([1, 2]), dtype="f8").dtype == "f8"


def test_what_failed_is_remembered_and_not_run_again(env: kodou.Environment, loopback: Loopback) -> None:
    failing, function = env.math.sqrt(-1), env.math.sqrt
    for _ in range(2):
        with pytest.raises(RemoteError, match="math domain error") as caught:
            print(failing)
        assert "ValueError: math domain error" in str(caught.value.__cause__)
        with pytest.raises(ValueNotSerializable):
            function.value()
    assert len(loopback.calls) == 2


def test_a_handle_that_failed_is_asked_again(env: kodou.Environment, loopback: Loopback) -> None:
    function = env.functools.partial(env.len).keep()
    for _ in range(2):
        with pytest.raises(ValueNotSerializable):
            function.value()
    assert len(loopback.calls) == 3


def test_it_prints_as_its_value(env: kodou.Environment, capsys: pytest.CaptureFixture[str]) -> None:
    print(env.numpy.array([2, 4, 6]).sum(), env.str("a"), [env.str("a")], env.re.compile("a"))
    assert capsys.readouterr().out == "12 a ['a'] re.compile('a')\n"


def test_what_fails_there_fails_here_with_its_traceback(env: kodou.Environment) -> None:
    with pytest.raises(RemoteError, match="math domain error") as caught:
        print(env.math.sqrt(-1))
    assert "ValueError: math domain error" in str(caught.value.__cause__)
    with pytest.raises(AttributeNotFound, match="did you mean 'sqrt'"):
        env.math.sqr(1).value()


def test_the_stage_that_fails_is_named(env: kodou.Environment) -> None:
    with pytest.raises(RemoteError) as caught:
        (env.list | env.map(env.math.sqrt))([4, -1]).value()
    assert (caught.value.stage, caught.value.item) == (1, 1)
    assert str(caught.value).endswith(" (stage 1, item 1)")


def test_a_call_that_is_never_evaluated_is_warned_of(env: kodou.Environment) -> None:
    with pytest.warns(RuntimeWarning, match=r"os\.remove\('x'\) was never evaluated"):
        env.os.remove("x")
    with pytest.warns(RuntimeWarning, match=r"map\(os\.remove\).* was never evaluated"):
        env.map(env.os.remove, ["x"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function, total = env.os.remove, env.numpy.array([1]).sum()
        assert total == 1
        del function, total
        gc.collect()


class Named:
    """Has a `repr` that shows what is in it."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"Named({self.inner!r})"


def test_neither_a_warning_nor_an_error_runs_anything(env: kodou.Environment, loopback: Loopback) -> None:
    dangerous = env.os.remove("x")
    piped = dangerous | env.map("len")
    use(piped)
    with pytest.warns(RuntimeWarning, match=r"print\(os\.remove\('x'\), \[os\.remove\('x'\)\], a=os") as caught:
        env.print(dangerous, [dangerous], a=dangerous)
    with pytest.warns(RuntimeWarning, match=r"print\(<Named>\)"):
        env.print(Named(dangerous))
    with pytest.raises(TypeError, match=r"not os\.remove\('x'\) \| map"):
        env.map(piped, [1])
    with pytest.raises(TypeError, match=r"not os\.remove\('x'\)"):
        env[dangerous]
    with pytest.raises(TypeError, match=r"not os\.remove\('x'\)"):
        env.drop(dangerous)
    assert len(caught) == 1
    assert loopback.calls == []


def test_an_attribute_is_not_set_here_alone(env: kodou.Environment, loopback: Loopback) -> None:
    kept = env.argparse.Namespace(a=1).keep()
    for stand_in in (kept, env, env.list | env.sum, env.math):
        with pytest.raises(AttributeError, match="'a' would be set here alone"):
            stand_in.a = 2
    env.setattr(kept, "a", 2).value()
    assert kept.a == 2


def test_an_item_is_neither_set_nor_deleted_here(env: kodou.Environment) -> None:
    items = env.list([1, 2]).keep()
    with pytest.raises(TypeError, match=r"`env\.operator\.setitem"):
        items[0] = 5
    with pytest.raises(TypeError, match=r"`env\.operator\.delitem"):
        del items[0]
    env.operator.setitem(items, 0, 5).value()
    env.operator.delitem(items, 1).value()
    assert items == [5]


def test_a_copy_is_the_same_and_a_pickle_is_refused(env: kodou.Environment) -> None:
    for stand_in in (env, env.math.pi, env.list | env.sum):
        assert copy.copy(stand_in) is copy.deepcopy(stand_in) is stand_in
        with pytest.raises(TypeError, match="not pickled: send the value"):
            pickle.dumps(stand_in)


def test_one_that_was_never_made_waits_for_nothing() -> None:
    for kind in (kodou.Expression, kodou.Composition):
        assert not kind.__new__(kind)._waits()


def test_after_the_end_it_shows_how_it_was_written(client: kodou.Client) -> None:
    with kodou.Environment(client=client) as env:
        root = env.math.sqrt(9)
        pipe = env.list | env.map(env.math.sqrt)
    assert repr(root) == "<math.sqrt(9)>"
    assert repr(pipe) == "<list | map(math.sqrt)>"
    assert str(pipe) == "<list | map(math.sqrt)>"
    for needs_a_value in (root.value, root.__str__, root.__bool__):
        with pytest.raises(RuntimeError, match="is closed"):
            needs_a_value()


def test_an_expression_of_another_environment_is_refused_where_it_cannot_go(client: kodou.Client) -> None:
    with kodou.Environment(client=client) as one, kodou.Environment(client=client) as other:
        elsewhere = one.list([other.math.sqrt(4)])
        with pytest.raises(ValueError, match=r"math.sqrt\(4\) belongs to another environment"):
            elsewhere.value()


# --- compositions ---


def test_a_pipe_is_a_function_until_it_is_fed(env: kodou.Environment, loopback: Loopback) -> None:
    total = env.numpy.array | env.numpy.sum
    assert total([2, 4, 6]) == 12
    assert ([2, 4, 6] | total) == 12
    assert ([2, 4, 6] | env.numpy.array | env.numpy.sum) == 12
    assert (env.numpy.array([2, 4, 6]) | env.numpy.sum) == 12
    assert len(loopback.calls) == 4
    assert repr(total) == "<numpy.array | numpy.sum>"
    with pytest.raises(TypeError, match="call it, or feed it"):
        total.value()


def test_a_stage_may_have_its_first_arguments(env: kodou.Environment) -> None:
    assert (env.range(4) | env.map(env.operator.add(10)) | env.list) == [10, 11, 12, 13]
    assert ([3, 1, 2] | env.sorted(reverse=True)) == [3, 2, 1]


def test_arrays_feed_a_pipe_whole(env: kodou.Environment) -> None:
    assert (np.array([1, 2, 3]) | env.numpy.sum) == 6
    assert ({"a": 1} | env.len) == 1
    assert (pd.DataFrame({"a": [1, 2]}) | env.len) == 2
    with pytest.raises(TypeError, match="Series would not arrive"):
        (pd.Series([1, 2]) | env.len).value()


def test_list_operations_are_those_of_python(env: kodou.Environment) -> None:
    assert env.map(env.math.sqrt, [1, 4, 9]) == [1, 2, 3]
    assert env.map("math.sqrt", env.range(2)) == [0, 1]
    assert env.filter(env.str.isdigit, ["1", "a"]) == ["1"]
    assert env.starmap(env.pow, [[2, 3], [3, 2]]) == [8, 9]
    assert env.flatmap(env.list, ["ab", "c"]) == ["a", "b", "c"]
    assert env.reduce(env.operator.add, [[1], [2]], initial=[]) == [1, 2]
    assert env.sort(env.len, ["aa", "b"]) == ["b", "aa"]
    assert env.sort(items=[2, 1]) == [1, 2]
    assert env.any(env.bool, [0, 1]) == True  # noqa: E712  what it evaluates to
    assert env.all(items=[0, 1]) == False  # noqa: E712


def test_a_local_function_cannot_go(env: kodou.Environment) -> None:
    with pytest.raises(TypeError, match="is one of the environment"):
        env.map(len, [1])
    with pytest.raises(TypeError, match=r"args\[0\]|sorted\[1\]|key"):
        env.sorted([1], key=len).value()


def test_a_composition_is_fed_once(env: kodou.Environment) -> None:
    total = env.list | env.sum
    with pytest.raises(TypeError, match="arguments already"):
        total([1])([2])
    with pytest.raises(TypeError, match="right side"):
        total | total([1])
    with pytest.raises(TypeError):
        total | 3


# --- any expression ---

UNARY = {"neg": operator.neg, "abs": operator.abs, "index": operator.index}
BINARY = {"add": operator.add, "mul": operator.mul, "sub": operator.sub, "eq": operator.eq}


def expressions() -> st.SearchStrategy[Any]:
    """Trees of calls: a number, or an operator's name and its arguments."""
    return st.recursive(
        st.integers(-5, 5),
        lambda inner: (
            st.tuples(st.sampled_from(sorted(UNARY)), inner)
            | st.tuples(st.sampled_from(sorted(BINARY)), inner, inner)
            | st.tuples(st.just("sorted"), st.lists(inner, max_size=3))
        ),
        max_leaves=6,
    )


def locally(tree: Any) -> Any:
    if isinstance(tree, int):
        return tree
    if tree[0] == "sorted":
        return len(sorted(map(locally, tree[1])))
    return ({**UNARY, **BINARY})[tree[0]](*map(locally, tree[1:]))


def remotely(env: kodou.Environment, tree: Any) -> Any:
    if isinstance(tree, int):
        return tree
    if tree[0] == "sorted":
        return env.len(env.sorted([remotely(env, item) for item in tree[1]]))
    return getattr(env.operator, tree[0])(*(remotely(env, item) for item in tree[1:]))


@given(tree=expressions())
def test_any_expression_is_what_python_makes_of_it(env: kodou.Environment, tree: Any) -> None:
    built = remotely(env, tree)
    assert (built if isinstance(tree, int) else built.value()) == locally(tree)


PYTHONS: dict[str, Callable[[Any], Any]] = {
    "sorted": sorted,
    "list": list,
    "set": set,
    "tuple": tuple,
    "iter": iter,
    "map": lambda items: [abs(item) for item in items],
}


@given(
    start=st.lists(st.integers(-9, 9), max_size=6),
    names=st.lists(st.sampled_from(sorted(PYTHONS)), max_size=5),
)
def test_any_pipeline_is_what_python_makes_of_it(env: kodou.Environment, start: list[int], names: list[str]) -> None:
    expected: Any = list(start)
    built: Any = env.list
    for name in names:
        expected = PYTHONS[name](expected)
        built = built | (env.map(env.abs) if name == "map" else env[name])
    assert (start | built | env.list) == list(expected)
