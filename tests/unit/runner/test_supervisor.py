"""The real runner: processes, connections and their ends. As a plain process here; as process 1 in test_process_one.py."""

import json
import os
import select
import signal
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner import __version__, frames

from .conftest import PATIENCE_S, Orchestrator

CODE = textwrap.dedent("""
    import os, signal, sys, time

    counter = 0
    held = []

    def count():
        global counter
        counter += 1
        return counter

    def spin():
        while True:
            pass

    def hold(path):
        held.append(os.open(path, os.O_WRONLY))

    def daemon(path):
        '''A process that leaves its session and its parent, ignores what can be ignored, and holds `path` open.'''
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if os.fork() == 0:
                for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(number, signal.SIG_IGN)
                hold(path)
                os.write(told, b"x")
                while True:
                    time.sleep(1000)
            os._exit(0)
        os.waitpid(pid, 0)
        os.read(ready, 1)

    def daemon_and_leave(path):
        daemon(path)
        os._exit(3)

    def leave(code):
        if code:
            os._exit(code)

    def stay(path):
        if path:
            hold(path)
            os.write(held[-1], b"x")
            spin()

    def twice():
        return "child" if os.fork() == 0 else "parent"

    def fork_and_raise(code):
        pid = os.fork()
        if pid == 0:
            sys.exit(code)
        return os.WEXITSTATUS(os.waitpid(pid, 0)[1])

    def fork_and_fail():
        pid = os.fork()
        if pid == 0:
            raise ValueError
        return os.WEXITSTATUS(os.waitpid(pid, 0)[1])

    def recurse():
        recurse()

    def exhaust():
        raise MemoryError

    class Hostile(Exception):
        def __str__(self):
            raise KeyboardInterrupt
        __repr__ = __str__

    def hostile():
        raise Hostile

    def chained():
        try:
            1 / 0
        except ZeroDivisionError as exc:
            raise ValueError("outer") from exc

    async def later():
        raise ValueError("later")

    def long():
        raise ValueError("x" * 100_000)

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1000)

    def alarm():
        '''An exception that strikes our own code, after the call.'''
        def strike(*_):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise TimeoutError
        signal.signal(signal.SIGALRM, strike)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)

    def write(path, count):
        with open(path, "wb") as file:
            file.write(bytes(count))
""")


@pytest.fixture
def user(session: Orchestrator, code: Path) -> Orchestrator:
    (code / "user.py").write_text(CODE)
    return session


def ends(descriptor: int) -> bool:
    """Whether every process that held the other end has ended, in good time."""
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP is reported always
    return bool(poll.poll(PATIENCE_S * 1000))


def held(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return not poll.poll(0)


# --- greetings ---


def test_the_supervisor_greets_and_waits_for_its_configuration(launch: Callable[..., Orchestrator]) -> None:
    orchestrator = launch()
    hello = orchestrator.accept_control()
    assert hello == {
        "role": "supervisor",
        "protocol": frames.PROTOCOL,
        "runner": __version__,
        "python": hello["python"],
        "pid": orchestrator.process.pid,
    }
    assert [task.name for task in Path(f"/proc/{hello['pid']}/task").iterdir()] == [str(hello["pid"])]
    assert not Path(f"/proc/{hello['pid']}/task/{hello['pid']}/children").read_text()
    orchestrator.configure(env={"GREETING": "hello"})
    greeting = orchestrator.accept_worker()
    assert greeting["protocol"] == frames.PROTOCOL
    assert greeting["generation"] == 1
    assert orchestrator.value("os.getpid") == greeting["pid"] != hello["pid"]
    assert orchestrator.value("os.environ.get", "GREETING") == "hello"


def test_it_comes_when_somebody_listens(launch: Callable[..., Orchestrator]) -> None:
    orchestrator = launch(listening=False)
    orchestrator.listen()
    orchestrator.start()


def test_a_path_longer_than_a_socket_address_is_no_hindrance(
    launch: Callable[..., Orchestrator], tmp_path: Path
) -> None:
    far = tmp_path / ("x" * 100) / ("y" * 100)
    far.mkdir(parents=True)
    orchestrator = launch(directory=far).start()
    assert orchestrator.value("abs", -1) == 1


# --- what user code finds ---


def test_user_code_finds_an_interpreter_of_its_own(session: Orchestrator, code: Path) -> None:
    assert session.value("sys.argv") == [""]
    assert (
        session.value(
            "builtins.eval", "[n for n in __import__('sys').modules if n.split('.')[0] in ('runner', 'boot')]"
        )
        == []
    )
    (code / "runner.py").write_text("answer = 42")
    assert session.value("runner.answer") == 42
    assert session.value(["__main__", "__name__"]) == "__main__"
    assert session.value("builtins.eval", "vars(__import__('__main__')).get('__file__')") is None
    assert session.value(["sys", {"name": "exc_info", "args": []}]) == [None, None, None]


def test_code_runs_in_main_and_finds_what_earlier_code_left_there(session: Orchestrator) -> None:
    script = "import os\ndef pid():\n    return os.getpid()\nclass Kind: pass\nfound = pid()"
    session.value("exec", script)
    assert session.value("eval", "found == pid() and found") == session.value("os.getpid")
    assert session.value("__main__.pid") == session.value("os.getpid")
    assert session.call("eval", "Kind()").body["type"] == "__main__.Kind"
    assert session.value([{"name": "eval", "args": ["Kind"]}, "__qualname__"]) == "Kind"
    session.value("exec", "answer = 42", {})
    assert session.call("eval", "answer").body["exception"]["type"] == "NameError"
    for name in ("value", "invoke", "awaited"):  # ours
        assert session.call("eval", name).body["exception"]["type"] == "NameError"


def test_code_shows_its_warnings_each_time(session: Orchestrator) -> None:
    for _ in range(2):
        assert "careful" in session.call("exec", "import warnings; warnings.warn('careful')").body["stderr"]


def test_signals_are_as_in_any_interpreter(session: Orchestrator) -> None:
    for name, handler in (("SIGTERM", "SIG_DFL"), ("SIGCHLD", "SIG_DFL"), ("SIGINT", "default_int_handler")):
        assert session.value("builtins.eval", f"(s := __import__('signal')).getsignal(s.{name}) == s.{handler}")


def test_files_have_a_bound_and_no_core_is_dumped(
    launch: Callable[..., Orchestrator], code: Path, tmp_path: Path
) -> None:
    (code / "user.py").write_text(CODE)
    session = launch().start(fsize_bytes=1 << 20)
    assert session.value("resource.getrlimit", 4) == [0, 0]
    assert session.call("user.write", str(tmp_path / "small"), 1 << 20).kind == frames.VALUE
    assert session.call("user.write", str(tmp_path / "large"), (1 << 20) + 1).body["exception"]["type"] == "OSError"


# --- calls ---


def test_a_value_comes_with_its_type_and_time(user: Orchestrator) -> None:
    body = user.call("decimal.Decimal", "1.50").body
    assert 0 <= body.pop("ms") < PATIENCE_S * 1000
    assert body == {"error": False, "value": "1.50", "type": "decimal.Decimal"}
    assert set(user.call("abs", -1).body) == {"error", "value", "ms"}


def test_the_client_chooses_what_nan_becomes(user: Orchestrator) -> None:
    request = {"namepath": "float", "args": ["nan"]}
    user.send(request)
    assert user.reply().body["value"] is None
    user.send(request, flags=frames.NONFINITE_AS_STRINGS)
    assert user.reply().body["value"] == "NaN"


def test_a_reply_carries_the_id_of_its_call(user: Orchestrator) -> None:
    for call_id in (0, 2**64 - 1):
        user.send({"namepath": "math.pi"}, call_id=call_id)
        user.reply(call_id=call_id)


def test_state_stays_from_call_to_call(user: Orchestrator) -> None:
    assert [user.value("user.count") for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("request_body", "expected"),
    [
        (b"{", {"code": "invalid_request"}),
        (b'{"namepath": "len", "argz": 1}', {"code": "invalid_request", "field": "argz"}),
        (b'{"namepath": "mathh.sqrt"}', {"code": "name_not_found", "field": "namepath[0]"}),
        (b'{"namepath": "math.sqrtt"}', {"code": "attribute_not_found", "field": "namepath[1]"}),
        (b'{"namepath": "math.pi", "args": [1]}', {"code": "not_callable", "field": "args"}),
    ],
)
def test_a_call_that_names_what_is_not_there_is_refused(
    user: Orchestrator, request_body: bytes, expected: dict[str, str]
) -> None:
    user.send(request_body)
    reply = user.reply()
    assert reply.kind == frames.REFUSED
    assert reply.body.pop("detail")
    assert reply.body == expected


def test_what_has_no_form_is_no_value(user: Orchestrator) -> None:
    reply = user.call("threading.Lock")
    assert reply.kind == frames.UNSERIALISABLE
    assert reply.body.pop("ms") >= 0
    assert reply.body.pop("repr").startswith("<unlocked _thread.lock")
    assert reply.body.pop("detail")
    assert reply.body == {"error": True, "code": "value_not_serializable", "type": "_thread.lock"}


def test_an_endless_iterator_is_an_error(user: Orchestrator) -> None:
    reply = user.call("itertools.count")
    assert reply.kind == frames.UNSERIALISABLE
    assert reply.body["code"] == "too_many_items"
    assert user.value("itertools.islice", [1, 2, 3], 2) == [1, 2]


@pytest.mark.parametrize("call", [("builtins.eval", "'x' * 3_000_000"), ("range", 10**9), ("bytes", 3_000_000)])
def test_a_reply_over_the_bound_is_an_error(user: Orchestrator, call: tuple[Any, ...]) -> None:
    reply = user.call(*call)
    assert reply.kind == frames.UNSERIALISABLE
    assert reply.body["code"] == "reply_too_large"


def test_a_value_that_fits_is_not_lost_for_its_output(launch: Callable[..., Orchestrator]) -> None:
    session = launch().start(max_reply_bytes=1024, max_output_bytes=4096)
    body = session.call("builtins.eval", "print('x' * 2000) or 5").body
    assert (body["value"], body["truncated"]) == (5, True)
    assert "stdout" not in body


def test_a_large_value_comes_whole(launch: Callable[..., Orchestrator]) -> None:
    session = launch().start(max_reply_bytes=1 << 26)
    numbers = [i / 7 for i in range(200_000)]
    assert session.value("list", numbers) == numbers


# --- exceptions ---


def exception(reply: Any) -> dict[str, str]:
    assert reply.kind == frames.RAISED
    assert (reply.body["error"], reply.body["code"]) == (True, "exception")
    return reply.body["exception"]  # type: ignore[no-any-return]


def test_an_exception_comes_with_the_users_frames_only(user: Orchestrator, code: Path) -> None:
    raised = exception(user.call("user.chained"))
    assert (raised["type"], raised["message"]) == ("ValueError", "outer")
    assert "ZeroDivisionError" in raised["traceback"]
    assert "direct cause" in raised["traceback"]
    files = [line for line in raised["traceback"].splitlines() if line.startswith("  File ")]
    assert [file.split('"')[1] for file in files] == [str(code / "user.py")] * 2
    assert raised["traceback"].endswith("ValueError: outer\n")


def test_frames_of_the_event_loop_and_of_the_import_system_are_not_the_users(user: Orchestrator, code: Path) -> None:
    (code / "broken.py").write_text("1 / 0")
    for namepath, file in (("user.later", "user.py"), ("broken.x", "broken.py")):
        traceback = exception(user.call(namepath))["traceback"]
        assert [line.split('"')[1] for line in traceback.splitlines() if "File" in line] == [str(code / file)]


def test_an_exception_of_code_below_python_has_no_frames(user: Orchestrator) -> None:
    raised = exception(user.call("math.sqrt", -1))
    assert raised["type"] == "ValueError"
    assert "File" not in raised["traceback"]


@pytest.mark.parametrize(
    ("call", "type_name"),
    [
        (("sys.exit", 3), "SystemExit"),
        (("user.recurse",), "RecursionError"),
        (("user.exhaust",), "MemoryError"),
        (("user.interrupt",), "KeyboardInterrupt"),
        (("user.hostile",), "user.Hostile"),
        (("json.loads", "{"), "json.decoder.JSONDecodeError"),
        (("int", "x", "y"), "TypeError"),
    ],
)
def test_whatever_is_raised_is_the_calls(user: Orchestrator, call: tuple[Any, ...], type_name: str) -> None:
    assert exception(user.call(*call))["type"] == type_name
    assert user.value("abs", -1) == 1


def test_what_is_said_of_an_exception_is_bounded(user: Orchestrator) -> None:
    raised = exception(user.call("user.long"))
    assert raised["message"] == "x" * 4096
    assert len(raised["traceback"]) <= 32 * 1024
    assert 'raise ValueError("x" * 100_000)' in raised["traceback"]


def test_limits_that_user_code_sets_for_itself_do_not_harm_us(user: Orchestrator) -> None:
    user.value("sys.setrecursionlimit", 60)
    assert user.value("sys.getrecursionlimit") == 60
    nested: Any = []
    for _ in range(200):
        nested = [nested]
    assert user.value("list", [nested]) == [nested]


# --- ends ---


def test_restart_kills_whatever_a_call_started(user: Orchestrator, leash: tuple[Path, int]) -> None:
    path, descriptor = leash
    user.value("user.daemon", str(path))
    assert held(descriptor)
    user.tell(frames.RESTART)
    assert user.call_ends()
    assert user.accept_worker()["generation"] == 2
    assert ends(descriptor)
    user.find_code()
    assert user.value("user.count") == 1


def test_restart_ends_an_endless_loop(user: Orchestrator) -> None:
    user.send({"namepath": "user.spin"})
    user.tell(frames.RESTART)
    assert user.accept_worker()["generation"] == 2
    assert user.value("abs", -1) == 1


def test_restart_spares_a_worker_that_took_the_place_of_the_one_that_is_meant(user: Orchestrator) -> None:
    user.send({"namepath": "os._exit", "args": [3]})
    assert user.report() == {"code": 3, "signal": None}
    assert user.accept_worker()["generation"] == 2
    user.tell(frames.RESTART, b'{"ends": 0}')  # sent before the report had come
    user.send({"namepath": "os._exit", "args": [4]})
    assert user.report() == {"code": 4, "signal": None}
    assert user.accept_worker()["generation"] == 3
    user.tell(frames.RESTART, b'{"ends": 2}')
    assert user.report() == {"code": None, "signal": None}
    assert user.accept_worker()["generation"] == 4


@pytest.mark.parametrize(
    ("source", "report"),
    [
        ("__import__('os')._exit(3)", {"code": 3, "signal": None}),
        ("__import__('os').kill(__import__('os').getpid(), 9)", {"code": None, "signal": 9}),
        ("__import__('os').abort()", {"code": None, "signal": 6}),
    ],
)
def test_a_worker_that_ends_is_reported_and_replaced(
    user: Orchestrator, source: str, report: dict[str, int | None]
) -> None:
    user.send({"namepath": "eval", "args": [source]})
    assert user.report() == report
    assert user.call_ends()
    assert user.accept_worker()["generation"] == 2
    assert user.value("abs", -1) == 1


def test_nothing_outlives_the_worker_that_started_it(user: Orchestrator, leash: tuple[Path, int]) -> None:
    path, descriptor = leash
    user.send({"namepath": "user.daemon_and_leave", "args": [str(path)]})
    assert user.report() == {"code": 3, "signal": None}
    assert ends(descriptor)


@pytest.mark.parametrize(
    ("request_", "place"),
    [
        ({"args": ["3"], "pipeline": ["int", "os._exit"]}, {"stage": 1}),
        ({"listop": {"op": "map", "function": "user.leave", "list": [0, 3]}}, {"item": 1}),
        ({"args": [[0, 3]], "pipeline": ["iter", {"op": "any", "function": "user.leave"}]}, {"stage": 1, "item": 1}),
        ({"args": [[1, 2]], "pipeline": [{"op": "map", "function": "float"}, "sum", "int", "os._exit"]}, {"stage": 3}),
    ],
)
def test_the_place_in_a_composition_at_which_a_worker_ended_is_reported(
    user: Orchestrator, request_: dict[str, Any], place: dict[str, int]
) -> None:
    user.send(request_, kind=frames.COMPOSE)
    assert user.report() == {"code": 3, "signal": None, **place}
    user.accept_worker()
    user.send({"namepath": "os._exit", "args": [4]})
    assert user.report() == {"code": 4, "signal": None}


def test_the_place_at_which_a_composition_was_cut_off_is_reported(user: Orchestrator, leash: tuple[Path, int]) -> None:
    path, descriptor = leash
    operation = {"op": "filter", "function": "user.stay"}
    user.send({"args": [["", "", str(path)]], "pipeline": ["list", operation]}, kind=frames.COMPOSE)
    assert select.select([descriptor], [], [], PATIENCE_S)[0]
    user.tell(frames.RESTART)
    assert user.report() == {"code": None, "signal": None, "stage": 1, "item": 2}
    assert user.accept_worker()["generation"] == 2


@pytest.mark.parametrize(
    "request_",
    [{"args": [1], "pipeline": ["abs", "str"]}, {"args": [-1], "pipeline": ["int", "math.sqrt"]}, {"args": [1]}],
)
def test_a_composition_that_was_answered_is_in_no_place(user: Orchestrator, request_: dict[str, Any]) -> None:
    user.send(request_, kind=frames.COMPOSE)
    user.reply()
    user.tell(frames.RESTART)
    assert user.report() == {"code": None, "signal": None}


def test_workers_that_end_at_once_many_times_are_all_reported_and_replaced(user: Orchestrator) -> None:
    for generation in range(2, 17):
        user.send({"namepath": "os._exit", "args": [generation]})
        assert user.report() == {"code": generation, "signal": None}
        assert user.accept_worker()["generation"] == generation


def test_a_child_that_returns_from_the_call_as_well_says_nothing(user: Orchestrator) -> None:
    for _ in range(3):
        assert user.value("user.twice") == "parent"
    # A second reply would have come before this one.
    assert user.value("user.count") == 1


def test_a_child_that_leaves_the_call_ends_as_a_script_would(user: Orchestrator) -> None:
    assert user.value("user.fork_and_raise", 7) == 7
    assert user.value("user.fork_and_raise", None) == 0
    assert user.value("user.fork_and_raise", "text") == 1
    assert user.value("user.fork_and_fail") == 1


def test_orphans_are_collected(user: Orchestrator, leash: tuple[Path, int]) -> None:
    path, descriptor = leash
    user.value("user.daemon", str(path))
    children = f"/proc/{user.process.pid}/task/{user.process.pid}/children"
    worker, orphan = sorted(map(int, Path(children).read_text().split()))
    assert worker == user.value("os.getpid")
    os.kill(orphan, signal.SIGKILL)
    assert ends(descriptor)
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{orphan}").exists():  # as a zombie
        assert time.monotonic() < deadline


@pytest.mark.parametrize("how", ["stop", "terminate", "interrupt"])
def test_the_end_of_the_supervisor_is_the_end_of_all(user: Orchestrator, leash: tuple[Path, int], how: str) -> None:
    path, descriptor = leash
    user.value("user.daemon", str(path))
    user.send({"namepath": "user.spin"})
    if how == "stop":
        user.tell(frames.STOP)
    else:
        user.process.send_signal(signal.SIGTERM if how == "terminate" else signal.SIGINT)
    assert user.process.wait(PATIENCE_S) == 0
    assert user.call_ends()
    assert ends(descriptor)


def test_the_worker_does_not_outlive_a_supervisor_that_is_killed(user: Orchestrator) -> None:
    user.send({"namepath": "user.spin"})
    user.process.kill()
    assert user.call_ends()


# --- connections that are lost ---


def test_the_worker_comes_back_with_its_state(user: Orchestrator) -> None:
    assert user.value("user.count") == 1
    user.close(user.calls)
    assert user.accept_worker()["generation"] == 1
    assert user.value("user.count") == 2


def test_the_worker_comes_back_after_a_reply_that_nobody_took(user: Orchestrator) -> None:
    user.send({"namepath": "user.count"})
    user.close(user.calls)
    assert user.accept_worker()["generation"] == 1
    assert user.value("user.count") == 2


def test_the_worker_comes_back_after_a_frame_that_is_none(user: Orchestrator) -> None:
    assert user.calls is not None
    user.calls.sendall(frames.encode(frames.STOP))
    assert user.call_ends()
    assert user.accept_worker()["generation"] == 1


def test_the_worker_comes_back_when_a_signal_handler_strikes_it(user: Orchestrator) -> None:
    user.value("user.alarm")
    assert user.call_ends()
    assert user.accept_worker()["generation"] == 1
    assert user.value("user.count") == 1


def test_a_restarted_server_finds_the_session_as_it_was(user: Orchestrator) -> None:
    assert user.value("user.count") == 1
    assert user.listener is not None
    user.close(user.listener)
    user.close(user.control)
    user.close(user.calls)
    user.listen()
    greetings = dict([reconnect(user), reconnect(user)])
    assert greetings["worker"]["generation"] == 1
    user.configure()
    assert user.value("user.count") == 2
    user.tell(frames.RESTART)
    assert user.accept_worker()["generation"] == 2


def reconnect(orchestrator: Orchestrator) -> tuple[str, dict[str, Any]]:
    sock, hello = orchestrator.accept()
    if hello["role"] == "worker":
        orchestrator.calls = sock
    else:
        orchestrator.control = sock
    return hello["role"], hello


def test_it_ends_when_nobody_listens_for_too_long(launch: Callable[..., Orchestrator]) -> None:
    session = launch().start(orphan_s=0)
    session.close(session.listener)
    session.close(session.control)
    assert session.process.wait(PATIENCE_S) == 0
    assert session.call_ends()


def test_an_idle_supervisor_does_not_wake_up(user: Orchestrator) -> None:
    status = Path(f"/proc/{user.process.pid}/status")

    def switches() -> list[str]:
        return [line for line in status.read_text().splitlines() if "ctxt_switches" in line]

    before = switches()
    user.value("time.sleep", 0.5)
    assert switches() == before


def test_what_was_sent_in_one_piece_is_taken_in_one_piece(user: Orchestrator) -> None:
    body = json.dumps({"namepath": "len", "args": ["é" * 300_000]}, ensure_ascii=False).encode()
    user.send(body)
    assert user.reply().body["value"] == 300_000
