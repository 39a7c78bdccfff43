"""How things look, on a terminal, in a notebook, to completion."""

import inspect
import io
import sys
import warnings
from typing import Any

import httpx
import kodou
import pytest
from kodou import Image, Progress
from kodou.errors import AttributeNotFound, BuildFailed, CallFailed
from kodou.progress import bar, line

from tests.unit.sdk.loopback import Loopback


def test_an_environment_shows_what_it_has(env: kodou.Environment) -> None:
    assert repr(env) == "<Environment e1: Python 3.12.4, numpy 2.4>"
    assert "<td>numpy</td><td>2.4</td>" in env._repr_html_()
    assert env._repr_html_() == env.session._repr_html_()
    other = kodou.Environment(["numpy"], client=env._client)
    assert repr(other) == "<Environment ['numpy'], not open>"
    assert "numpy (not open)" in other._repr_html_()
    other.close()
    assert repr(other) == "<Environment ['numpy'], closed>"
    assert "numpy (closed)" in other._repr_html_()
    assert repr(env._client) == "<Client of http://host>"


def test_notebooks_show_frames_and_images(env: kodou.Environment) -> None:
    assert "<table" in env.pandas.DataFrame({"a": [1]})._repr_html_()
    assert env["PIL.Image"].new("RGB", [2, 3])._repr_html_().startswith('<img src="data:image/png;base64,')
    assert env.len("a")._repr_html_() is None
    assert "square root" in env.math.sqrt._repr_html_()
    assert "<code>acos</code>" in env.math._repr_html_()
    assert env.re.compile("a")._repr_html_() is None
    picture = Image(b"<svg/>", "image/svg+xml")
    assert picture._repr_mimebundle_() == {"image/svg+xml": "<svg/>"}
    assert "svg" in repr(picture)


def test_a_notebook_runs_what_fails_once(env: kodou.Environment, loopback: Loopback) -> None:
    for code in ("timeout", "exception", "worker_died"):
        loopback.answers = [httpx.Response(200, json={"error": True, "code": code})]
        failing = env.len([code])
        with pytest.raises(CallFailed):
            repr(failing)
        assert failing._repr_html_() is None
        assert loopback.answers == []
    assert len(loopback.calls) == 3
    with pytest.raises(kodou.RemoteError):
        env.math.sqrt(-1)._repr_html_()


def test_help_is_of_what_is_named(env: kodou.Environment, loopback: Loopback) -> None:
    assert "math.sqrt(x, /)\n\nReturn the square root" in str(env.math.sqrt.__doc__)
    assert str(inspect.getdoc(env.list([1]).keep())).startswith("r1")
    own = inspect.getdoc(kodou.Expression)
    assert str(own).startswith("A namepath with arguments")
    assert str(kodou.Handle.__doc__).startswith("A value that is kept")
    assert inspect.getdoc(env.no_such_name) == own
    called = env.math.sqrt(4)
    assert inspect.getdoc(called) == own
    assert called == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.math.sqrt.getdoc()  # as IPython does
    env.close()
    assert inspect.getdoc(env.math.sqrt) == own


def test_a_name_is_described_without_being_run(env: kodou.Environment) -> None:
    described = env.describe(env.math.sqrt)
    assert (described.name, described.kind) == ("math.sqrt", "function")
    assert str(described).startswith("math.sqrt(x")
    assert "square root" in described._repr_html_()
    assert {member.name for member in env.describe("math", prefix="sq").members} == {"sqrt"}
    assert "append" in {member.name for member in env.describe(env.list([1]).keep()).members}
    with pytest.raises(AttributeNotFound):
        env.describe("math.no_such_name")
    built = env.math.sqrt(1)
    with pytest.raises(TypeError, match="only names"):
        env.describe(built)
    assert built == 1


def test_completion_knows_the_names_there_are(env: kodou.Environment) -> None:
    assert {"sqrt", "pi", "keep", "value"} <= set(dir(env.math))
    assert {"map", "session", "math", "len"} <= set(dir(env))
    assert "math" in env._ipython_key_completions_()


def test_completion_is_never_in_the_way(client: kodou.Client, loopback: Loopback) -> None:
    with kodou.Environment(client=client) as env:
        called = env.math.sqrt(4)
        assert "keep" in dir(called)
        assert called == 2
        loopback.answers = [httpx.Response(500, json={"error": True, "code": "internal"})]
        assert "keep" in dir(env.math)
        assert "keep" in dir(env.no_such_name)
    assert "map" in dir(env)


def test_what_was_called_is_not_completed_with_the_names_of_the_environment(
    env: kodou.Environment, loopback: Loopback
) -> None:
    items = env.list([1])
    assert dir(items) == ["attr", "keep", "reply", "stream", "value"]
    assert items == [1]
    assert "append" in dir(items.keep())


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Progress("resolve"), "resolving"),
        (Progress("fetch", "numpy", 5_000_000, 10_000_000), "fetching numpy [##########          ] 5.0/10.0 MB"),
        (Progress("compile", line="gcc\x1b[1m x"), "compiling: gcc[1m x"),
        (Progress("to_come"), "to_come"),
    ],
)
def test_a_step_is_a_line(step: Progress, text: str) -> None:
    assert line(step) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_on_a_terminal_alone(monkeypatch: Any) -> None:
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert bar() is None
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    show = bar()
    assert show is not None
    show(Progress("install"))
    show(Progress("ready"))
    assert terminal.getvalue() == "\r\x1b[Kinstalling\r\x1b[K"


def test_the_bar_is_cleared_when_a_build_fails(client: kodou.Client, loopback: Loopback, monkeypatch: Any) -> None:
    failed = b'event: progress\ndata: {"phase": "install"}\n\nevent: error\ndata: {"code": "build_failed"}\n\n'
    loopback.answers = [httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=failed)]
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with pytest.raises(BuildFailed), kodou.Environment(client=client):
        pass
    assert terminal.getvalue() == "\r\x1b[Kinstalling\r\x1b[K"
