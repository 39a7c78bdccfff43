"""`kodou setup`, `call`, `kompose`, `describe` and `close` against a server that answers as the protocol says."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Kodou = Callable[..., Any]

READY = {
    "sessionid": "aaa.bbb.ccc",
    "error": False,
    "environment": {
        "id": "py3.12-9f2c",
        "language": "python",
        "version": "3.12.4",
        "packages": {"numpy": "2.4.6"},
        "reused": True,
    },
    "expires": "2030-01-01T00:00:00Z",
}


class Server:
    """Answers every request with `reply` and keeps what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.reply: dict[str, Any] | bytes = {}
        self.form = "application/x-npy"  # of a reply in bytes
        self.bodies: list[Any] = []
        self.asked: list[tuple[str, str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.append((self.command, self.path, self.headers["Accept"]))
                outer.bodies.append(json.loads(sent) if self.headers["Content-Type"] == "application/json" else sent)
                told = isinstance(outer.reply, dict)
                body = json.dumps(outer.reply).encode() if told else outer.reply
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json" if told else outer.form)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_DELETE = do_POST

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def stream(self, events: str) -> None:
        self.reply, self.form = events.encode(), "text/event-stream"

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server()
    monkeypatch.setenv("KODOU_URL", running.url)
    monkeypatch.setenv("KODOU_TOKEN", "token")
    yield running
    running.stop()


def test_setup_prints_the_session_id_alone(kodou: Kodou, server: Server) -> None:
    server.reply = READY
    done = kodou("setup", "numpy", "requests>=2.31", "--python", "3.12", "--ttl", "5m", "--env", "A=b=c", "--refresh")
    assert (done.code, done.out) == (0, "aaa.bbb.ccc\n")
    assert "Python 3.12.4 with numpy 2.4.6" in done.err
    assert server.bodies == [
        {
            "dependencies": ["numpy", "requests>=2.31"],
            "version": "3.12",
            "ttl": 300,
            "env": {"A": "b=c"},
            "refresh": True,
        }
    ]


def test_setup_prints_json(kodou: Kodou, server: Server) -> None:
    server.reply = READY
    made = json.loads(kodou("setup", "--json").out)
    assert (made["sessionid"], made["expires"]) == ("aaa.bbb.ccc", "2030-01-01T00:00:00+00:00")
    assert made["environment"] == READY["environment"]


def test_setup_sends_a_lock_in_place_of_dependencies(kodou: Kodou, server: Server, tmp_path: Path) -> None:
    server.reply = READY
    file = tmp_path / "lock.json"
    file.write_text('{"version": 1, "packages": []}')
    assert kodou("setup", "--lock", file, "--ttl", "5m").code == 0
    assert server.bodies[0]["lock"] == {"version": 1, "packages": []}
    assert not server.bodies[0]["dependencies"]
    file.write_text("lock-version = '1.0'")
    refused = kodou("setup", "--lock", file)
    assert (refused.code, len(server.bodies)) == (2, 1)
    assert "not JSON" in refused.err


def test_a_failed_build_shows_the_log_and_fails(kodou: Kodou, server: Server) -> None:
    server.status = 422
    server.reply = {
        "error": True,
        "code": "build_failed",
        "detail": "no wheel could be built",
        "log": "gcc: \x1b[31mno",
    }
    done = kodou("setup", "broken")
    assert (done.code, done.out) == (1, "")
    assert done.err == "gcc: \N{REPLACEMENT CHARACTER}[31mno\nkodou: no wheel could be built\n"


def test_call_prints_the_value_as_json(kodou: Kodou, server: Server) -> None:
    server.reply = {"error": False, "value": {"ä": [1, None]}, "stdout": "hello\n"}
    done = kodou("call", "--session", "s", "m.f", "-3", '"text"', "[1, 2]", "--kwarg", 'k={"a": 1}', "--timeout", "2s")
    assert (done.code, done.out, done.err) == (0, '{"ä": [1, null]}\n', "hello\n")
    assert server.bodies == [
        {"sessionid": "s", "timeout": 2000, "namepath": "m.f", "args": [-3, "text", [1, 2]], "kwargs": {"k": {"a": 1}}}
    ]


def test_call_takes_a_namepath_as_a_list_and_the_session_from_a_variable(
    kodou: Kodou, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KODOU_SESSION", "from-env")
    server.reply = {"error": False, "value": 12, "type": "numpy.int64", "ms": 0.1}
    done = kodou("call", '["numpy", {"name": "array", "args": [[2, 4, 6]]}, "sum"]', "--json")
    assert json.loads(done.out) == {"value": 12, "type": "numpy.int64", "ms": 0.1}
    assert server.bodies[0]["sessionid"] == "from-env"
    assert server.bodies[0]["namepath"] == ["numpy", {"name": "array", "args": [[2, 4, 6]]}, "sum"]


def test_what_the_function_raised_is_shown_and_fails(kodou: Kodou, server: Server) -> None:
    exception = {"type": "ValueError", "message": "math domain error", "traceback": "Traceback: here\n"}
    server.reply = {"error": True, "code": "exception", "exception": exception, "stderr": "warned\n"}
    done = kodou("call", "--session", "s", "math.sqrt", "-1")
    assert (done.code, done.out) == (1, "")
    assert done.err == "warned\nTraceback: here\nkodou: ValueError: math domain error\n"


def test_call_keeps_and_takes_typed_arguments(kodou: Kodou, server: Server) -> None:
    server.reply = {"error": False, "value": {"$ref": "r1", "type": "_thread.lock", "repr": "<lock>"}}
    done = kodou("call", "--session", "s", "f", "--keep", "--tuple", '[{"1": "int"}]')
    assert (done.code, json.loads(done.out)["$ref"]) == (0, "r1")
    assert server.bodies == [{"sessionid": "s", "namepath": "f", "tuple": [{"1": "int"}], "keep": True}]


def test_files_go_beside_the_call(kodou: Kodou, server: Server, tmp_path: Path) -> None:
    server.reply = {"error": False, "value": 3}
    (tmp_path / "data").write_bytes(b"\0\1\2")
    done = kodou("call", "--session", "s", "len", '{"$file": "a"}', "--file", f"a={tmp_path / 'data'}")
    assert (done.code, done.out) == (0, "3\n")
    assert b'name="a"' in server.bodies[0]
    assert b"\r\n\r\n\0\1\2\r\n" in server.bodies[0]


def test_a_value_in_a_form_is_written_as_it_is(kodou: Kodou, server: Server, tmp_path: Path) -> None:
    server.reply = b"\x93NUMPY\0"
    done = kodou("call", "--session", "s", "f", "--accept", "application/x-npy", "--output", tmp_path / "out")
    assert (done.code, done.out) == (0, "")
    assert (tmp_path / "out").read_bytes() == b"\x93NUMPY\0"
    assert server.asked == [("POST", "/environment/python/call", "application/x-npy")]


def test_a_call_that_fails_writes_no_value(kodou: Kodou, server: Server, tmp_path: Path) -> None:
    server.reply = {"error": True, "code": "timeout", "detail": "it took too long"}
    done = kodou("call", "--session", "s", "f", "--accept", "text/csv", "--output", tmp_path / "out")
    assert (done.code, done.out, done.err) == (1, "", "kodou: it took too long\n")
    assert not (tmp_path / "out").exists()


def test_call_drops_references_with_a_call_or_without_one(kodou: Kodou, server: Server) -> None:
    server.reply = {"error": False, "value": None}
    assert kodou("call", "--session", "s", "--drop", "r1", "--drop", "r2").code == 0
    assert kodou("call", "--session", "s", "len", '{"$ref": "r3"}', "--drop", "r3").code == 0
    assert server.bodies == [
        {"sessionid": "s", "drop": ["r1", "r2"]},
        {"sessionid": "s", "namepath": "len", "args": [{"$ref": "r3"}], "drop": ["r3"]},
    ]


STREAMED = """event: output
data: {"stdout": "one"}

event: item
data: {"index": 0, "value": {"$bytes": "YQ=="}}

event: output
data: {"stderr": "\\u001btwo"}

event: result
data: {"error": false, "value": null, "items": 1, "type": "generator", "ms": 0.5}

"""


@pytest.mark.parametrize("command", ["call", "kompose"])
def test_a_stream_is_printed_as_it_comes(kodou: Kodou, server: Server, command: str, tmp_path: Path) -> None:
    server.stream(STREAMED)
    file = tmp_path / "composition.json"
    file.write_text('{"pipeline": ["f"]}')
    arguments = (command, "f" if command == "call" else str(file), "--session", "s", "--stream")
    done = kodou(*arguments)
    assert (done.code, done.out, done.err) == (0, '{"$bytes": "YQ=="}\n', "one\N{REPLACEMENT CHARACTER}two\n")
    assert server.asked[0][2] == "text/event-stream"
    assert [json.loads(line) for line in kodou(*arguments, "--json").out.splitlines()] == [
        {"index": 0, "value": {"$bytes": "YQ=="}},
        {"value": None, "type": "generator", "ms": 0.5},
    ]


def test_a_stream_without_items_ends_in_the_value_or_in_what_was_raised(kodou: Kodou, server: Server) -> None:
    server.stream('event: result\ndata: {"error": false, "value": 3}\n\n')
    done = kodou("call", "--session", "s", "f", "--stream")
    assert (done.code, done.out, done.err) == (0, "3\n", "")
    exception = {"type": "ValueError", "message": "no", "traceback": "Traceback: here\n"}
    failed = json.dumps({"error": True, "code": "exception", "exception": exception})
    server.stream(f'event: output\ndata: {{"stdout": "begun"}}\n\nevent: result\ndata: {failed}\n\n')
    done = kodou("call", "--session", "s", "f", "--stream")
    assert (done.code, done.out, done.err) == (1, "", "begun\nTraceback: here\nkodou: ValueError: no\n")


def test_kompose_sends_a_file(kodou: Kodou, server: Server, tmp_path: Path) -> None:
    server.reply = {"error": False, "value": [1, 2], "stdout": "hello\n"}
    file = tmp_path / "composition.json"
    file.write_text('{"args": [[2, 1]], "pipeline": ["sorted"]}')
    done = kodou("kompose", str(file), "--session", "s")
    assert (done.code, done.out, done.err) == (0, "[1, 2]\n", "hello\n")
    assert server.asked[0][:2] == ("POST", "/kompose")
    assert server.bodies == [{"args": [[2, 1]], "pipeline": ["sorted"], "session": "s"}]
    file.write_text('{"session": "t", "pipeline": ["sorted"]}')
    kodou("kompose", str(file), "--session", "s")
    assert server.bodies[1]["session"] == "t"


def test_describe_shows_what_there_is(kodou: Kodou, server: Server) -> None:
    member = {"name": "sqrt", "kind": "function", "signature": "(x, /)", "summary": "Return \x1bthe root."}
    value = {"name": "math", "kind": "module", "doc": "Mathematics.", "members": [member], "truncated": True}
    server.reply = {"error": False, "value": value}
    done = kodou("describe", "math", "--prefix", "sq", "--private", "--session", "s")
    assert done.code == 0
    assert done.out.startswith("math\n\nMathematics.\n\n")
    assert "sqrt(x, /)" in done.out
    assert "\x1b" not in done.out
    assert "--prefix" in done.err
    assert server.asked[0][1] == "/environment/python/describe"
    assert server.bodies == [{"sessionid": "s", "namepath": "math", "prefix": "sq", "private": True, "limit": 1000}]
    assert json.loads(kodou("describe", "math", "--session", "s", "--json").out) == value


def test_close_ends_each(kodou: Kodou, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.reply = {"error": False}
    assert kodou("close", "a", "b").code == 0
    monkeypatch.setenv("KODOU_SESSION", "c")
    assert kodou("close").code == 0
    assert [body["sessionid"] for body in server.bodies] == ["a", "b", "c"]
    assert {asked[:2] for asked in server.asked} == {("DELETE", "/session")}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("call", "math.sqrt", "9"), "KODOU_SESSION"),
        (("call", "--session", "s", "len", "text"), "is not JSON"),
        (("call", "--session", "s", "len", "--kwrg", "k=1"), "is not JSON"),
        (("call", "--session", "s", "[math"), "NAMEPATH is not JSON"),
        (("call", "--session", "s", "f", "--kwarg", "k"), "not NAME=VALUE"),
        (("call", "--session", "s", "f", "--output", "file"), "--accept"),
        (("call", "--session", "s", "f", "--tuple", "[1"), "is not JSON"),
        (("call", "--session", "s"), "--drop"),
        (("call", "--session", "s", "f", "--stream", "--accept", "text/csv"), "choose one"),
        (("describe", "math"), "KODOU_SESSION"),
        (("close",), "KODOU_SESSION"),
        (("setup", "--env", "A"), "not NAME=VALUE"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(kodou: Kodou, server: Server, arguments: tuple[str, ...], told: str) -> None:
    done = kodou(*arguments)
    assert done.code == 2
    assert told in done.err
    assert server.bodies == []


def test_no_token_and_no_server_say_what_to_do(kodou: Kodou, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "KODOU_TOKEN" in kodou("setup").err
    monkeypatch.setenv("KODOU_TOKEN", "token")
    done = kodou("setup", "--url", "http://127.0.0.1:1")
    assert done.code == 1
    assert done.err.startswith("kodou: no answer from http://127.0.0.1:1")
