"""Foreign errors become ours, all of them; and blocking work has threads of its own."""

import asyncio
import inspect
import threading
from collections.abc import Iterator

import docker.errors
import pytest
import requests
import requests.exceptions
import urllib3.exceptions

from orchestrator.errors import EngineUnavailable, KodouError, NotFound
from orchestrator.sandboxes.docker.engine import Engine, EngineConflict, EngineRefused, engine_errors
from orchestrator.settings import Settings


def classes(module: object) -> Iterator[type[BaseException]]:
    for _, each in inspect.getmembers(module, inspect.isclass):
        if issubclass(each, Exception) and each.__module__.startswith(("docker.", "requests.", "urllib3.")):
            yield each


FOREIGN = sorted(
    {*classes(docker.errors), *classes(requests.exceptions), *classes(urllib3.exceptions)}, key=lambda each: str(each)
)


def raised(exc: BaseException) -> KodouError:
    with pytest.raises(KodouError) as caught, engine_errors():
        raise exc
    assert caught.value.__cause__ is exc
    return caught.value


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_error_of_the_libraries_becomes_one_of_ours(kind: type[Exception]) -> None:
    # However it is made: some want arguments that only their library has.
    bare = {"__init__": lambda self: None, "__str__": lambda self: "x", "__repr__": lambda self: "x"}
    status = {"response": None, "explanation": "x"} if issubclass(kind, docker.errors.APIError) else {}
    raised(type(kind.__name__, (kind,), {**bare, **status})())


def answer(status: int) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("refused", response=response, explanation="because")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, EngineRefused), (409, EngineConflict), (500, EngineUnavailable), (503, EngineUnavailable)],
)
def test_an_answer_of_the_engine_says_who_can_mend_it(status: int, kind: type[KodouError]) -> None:
    assert type(raised(answer(status))) is kind


def test_what_is_not_there_is_not_found() -> None:
    assert type(raised(docker.errors.ImageNotFound("no such image", explanation="no such image"))) is NotFound


@pytest.mark.parametrize("exc", [ConnectionRefusedError(), TimeoutError(), BrokenPipeError()], ids=repr)
def test_a_broken_connection_is_an_engine_that_does_not_answer(exc: OSError) -> None:
    assert type(raised(exc)) is EngineUnavailable


def test_the_callers_text_holds_nothing_of_this_host() -> None:
    assert "/secret" not in raised(FileNotFoundError("/secret/path")).detail


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(KeyError), engine_errors():
        raise KeyError


@pytest.fixture
def engine() -> Engine:
    return Engine(Settings(docker_url="tcp://127.0.0.1:1"))  # nobody listens there


@pytest.mark.anyio
async def test_no_engine_is_unavailable(engine: Engine) -> None:
    with pytest.raises(EngineUnavailable):
        await engine.ping(timeout_s=5)
    await engine.aclose()


@pytest.mark.anyio
async def test_a_cancelled_caller_waits_for_the_end_of_what_it_began(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_client", lambda: None)
    began, go_on, done = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(_: object) -> None:
        loop.call_soon_threadsafe(began.set)
        go_on.wait()
        done.set()

    task = asyncio.create_task(engine.run_through(work))
    await began.wait()
    task.cancel()
    loop.call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
    await engine.aclose()
