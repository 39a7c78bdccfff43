"""Handles: what is kept in the session, used by name, and dropped when nobody needs it."""

import gc

import httpx
import kodou
import pytest
from kodou.errors import KodouError, ReferenceNotFound, RemoteError

from tests.unit.sdk.loopback import Loopback


def test_a_handle_is_an_argument_and_a_beginning(env: kodou.Environment, loopback: Loopback) -> None:
    items = env.list([3, 1]).keep()
    items.append(2).value()
    assert env.sum(items) == 6
    assert env.sorted(items) == [1, 2, 3]
    assert items[0] == 3
    assert items.value() == [3, 1, 2]
    assert ({"namepath": [{"ref": "r1"}, {"name": "append", "args": [2]}]}.items()) <= loopback.calls[1].items()


def test_a_handle_is_fetched_as_it_is_now(env: kodou.Environment) -> None:
    items = env.list([1]).keep()
    assert items.value() == [1]
    items.append(2).value()
    assert items == [1, 2]


def test_a_handle_of_a_function_is_called_only_where_it_is_called(env: kodou.Environment) -> None:
    add = env.functools.partial(env.operator.add, 1).keep()
    assert add(2) == 3
    assert env.map(add, [1, 2]) == [2, 3]
    with pytest.raises(KodouError, match="JSON"):
        add.value()


def test_a_handle_shows_what_it_stands_for_without_asking(env: kodou.Environment, loopback: Loopback) -> None:
    items = env.list(["<b>"]).keep()
    asked = len(loopback.requests)
    assert repr(items) == "<r1, list: ['<b>']>"
    assert "&lt;b&gt;" in items._repr_html_()
    assert len(loopback.requests) == asked


def test_a_handle_prints_as_what_it_stands_for_is_now(env: kodou.Environment) -> None:
    items = env.list([1]).keep()
    items.append(2).value()
    assert str(items) == f"{items}" == "[1, 2]"
    assert str(env.re.compile("a").keep()) == "re.compile('a')"


def test_what_nobody_refers_to_is_dropped_with_the_next_request(env: kodou.Environment, loopback: Loopback) -> None:
    items = env.list([1]).keep()
    length = items.count(1)
    del items
    gc.collect()
    assert length == 1  # what was made of it keeps it
    del length
    gc.collect()
    assert env.len("a") == 1
    assert [call.get("drop") for call in loopback.calls] == [None, None, ["r1"]]


def test_a_with_block_and_drop_let_go_of_it(env: kodou.Environment, loopback: Loopback) -> None:
    with env.list([1]).keep() as items:
        assert items == [1]
    other = env.list([2]).keep()
    env.drop(other)
    env.drop(other)
    assert env.len("a") == 1
    assert loopback.calls[-1]["drop"] == ["r2"]
    for gone in (items, other):
        with pytest.raises(ValueError, match="was dropped"):
            gone.value()


def test_only_handles_are_dropped(env: kodou.Environment) -> None:
    items = env.list([1]).keep()
    for other in (3, "r1", items.append, env.list):
        with pytest.raises(TypeError, match="only a handle can be dropped"):
            env.drop(other)
    assert items == [1]


def test_what_was_kept_on_the_way_is_dropped(env: kodou.Environment, loopback: Loopback) -> None:
    assert env.dict(a=env.len("ab")).value() == {"a": 2}
    gc.collect()
    assert env.len("a") == 1
    assert loopback.calls[-1]["drop"] == ["r1"]


def test_names_that_are_gone_after_a_restart_do_not_stand_in_the_way(
    env: kodou.Environment, loopback: Loopback
) -> None:
    items = env.list([1]).keep()
    loopback.restart()
    with pytest.raises(ReferenceNotFound):
        items.value()
    del items
    gc.collect()
    assert env.len("abc") == 3


def test_names_are_dropped_later_where_a_request_did_not_get_through(
    env: kodou.Environment, loopback: Loopback
) -> None:
    env.drop(env.list([1]).keep())
    loopback.answers = [httpx.Response(413, json={"error": True, "code": "payload_too_large"})]
    with pytest.raises(KodouError):
        env.len("a").value()
    with pytest.raises(RemoteError):  # this one did: it was run
        env.math.sqrt(-1).value()
    assert env.len("a") == 1
    assert [call.get("drop") for call in loopback.calls[1:]] == [["r1"], ["r1"], None]


def test_a_handle_of_another_session_is_refused(client: kodou.Client) -> None:
    with kodou.Environment(client=client) as one, kodou.Environment(client=client) as other:
        items = one.list([1]).keep()
        with pytest.raises(ValueError, match="kept in another session"):
            other.len(items).value()


def test_handles_go_into_calls_of_their_session(env: kodou.Environment) -> None:
    items = env.list([1, 2]).keep()
    assert env.session.call("builtins.sum", items) == 3
    with pytest.raises(TypeError, match="keep"):
        env.session.call("builtins.sum", env.range(3))


def test_a_fork_drops_nothing_of_its_parents(
    env: kodou.Environment, loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, waiting = env.list([1]).keep(), env.list([2]).keep()
    del waiting
    with monkeypatch.context() as fork:
        fork.setattr("kodou.references.getpid", lambda: -1)
        del items
        gc.collect()
        own = env.list([3]).keep()
        assert env.sum(own) == 3
        del own
        gc.collect()
        assert env.len("ab") == 2
    assert [call["drop"] for call in loopback.calls if "drop" in call] == [["r3"]]
