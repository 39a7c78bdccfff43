"""What calls print, through a real worker: the descriptors are the process's own."""

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from runner import frames

from .conftest import CONFIG, Orchestrator

BOUND = CONFIG["max_output_bytes"]


@pytest.fixture
def printing(session: Orchestrator, code: Path) -> Orchestrator:
    (code / "printing.py").write_text(
        textwrap.dedent("""
            import os, subprocess, sys

            def text(out, err=""):
                sys.stdout.write(out)
                sys.stderr.write(err)

            def many(count, line):
                for _ in range(count):
                    print(line)

            def below(data):
                os.write(1, data.encode())
                os.write(2, data.encode())

            def program():
                subprocess.run(["/bin/sh", "-c", "echo out; echo err >&2"], check=True)

            def raw(number):
                os.write(1, bytes([number]))

            def later():
                subprocess.Popen(["/bin/sh", "-c", "read line; echo $line"], stdin=subprocess.PIPE)

            def fail():
                print("before")
                raise ValueError("x")

            def refuse():
                print("on import")

            def close():
                sys.stdout.close()

            def close_number(number):
                print("before", flush=True)
                os.close(number)

            def close_all():
                os.closerange(1, 3)
                os.closerange(100, 1024)

            def reuse(path):
                # Files of the user's take all the numbers there are.
                os.closerange(100, 1024)
                global files
                files = []
                while True:
                    descriptor = os.open(path, os.O_RDWR)
                    files.append(descriptor)
                    if descriptor > 1000:
                        return len(files)

            def unhandled():
                sys.stdout = None

            def subclass():
                print("\\ud800")
        """)
    )
    return session


def output(session: Orchestrator, function: str, *args: object) -> dict[str, object]:
    body = session.call(f"printing.{function}", *args).body
    return {name: body[name] for name in ("stdout", "stderr", "truncated") if name in body}


def test_nothing_printed_leaves_nothing_in_the_reply(printing: Orchestrator) -> None:
    assert output(printing, "text", "") == {}


def test_both_streams_are_told_apart_and_begin_anew_with_each_call(printing: Orchestrator) -> None:
    assert output(printing, "text", "a\n", "b") == {"stdout": "a\n", "stderr": "b"}
    assert output(printing, "text", "c") == {"stdout": "c"}
    assert output(printing, "text", "") == {}


def test_what_programs_and_code_below_python_print_is_caught(printing: Orchestrator) -> None:
    assert output(printing, "below", "x") == {"stdout": "x", "stderr": "x"}
    assert output(printing, "program") == {"stdout": "out\n", "stderr": "err\n"}


def test_output_of_a_call_that_fails_is_in_its_reply(printing: Orchestrator) -> None:
    assert output(printing, "fail") == {"stdout": "before\n"}


def test_output_of_a_refused_call_is_not_the_next_ones(printing: Orchestrator) -> None:
    assert printing.call("printing.nothing").kind == frames.REFUSED
    assert output(printing, "text", "a") == {"stdout": "a"}


@pytest.mark.parametrize("function", ["text", "below"])
def test_output_up_to_the_bound_is_whole_and_past_it_cut(printing: Orchestrator, function: str) -> None:
    assert output(printing, function, "x" * BOUND)["stdout"] == "x" * BOUND
    assert "truncated" not in output(printing, function, "x" * BOUND)
    cut = output(printing, function, "y" * (BOUND + 1))
    assert cut["stdout"] == "y" * BOUND
    assert cut["truncated"] is True
    assert output(printing, "text", "z") == {"stdout": "z"}


def test_a_flood_is_counted_and_not_kept(printing: Orchestrator) -> None:
    cut = output(printing, "many", 200_000, "x" * 200)  # 40 MB, over fsize_bytes too
    assert cut == {"stdout": ("x" * 200 + "\n") * (BOUND // 201) + "x" * (BOUND % 201), "truncated": True}


def test_bytes_that_are_no_text_are_replaced(printing: Orchestrator) -> None:
    assert output(printing, "raw", 255) == {"stdout": "\ufffd"}
    assert output(printing, "subclass") == {"stdout": "\\ud800\n"}


@pytest.mark.parametrize("harm", ["close", "close_all"])
def test_streams_that_user_code_closes_come_back(printing: Orchestrator, harm: str) -> None:
    printing.send({"namepath": f"printing.{harm}"})
    if harm == "close":
        printing.reply()
    else:
        assert printing.call_ends()
        printing.accept_worker()
    assert output(printing, "text", "a", "b") == {"stdout": "a", "stderr": "b"}
    assert output(printing, "program") == {"stdout": "out\n", "stderr": "err\n"}


def test_a_descriptor_that_user_code_closes_comes_back_in_the_next_call(printing: Orchestrator) -> None:
    for number in (1, 2):
        assert output(printing, "close_number", number) == {"stdout": "before\n"}
        assert output(printing, "text", "a", "b") == {"stdout": "a", "stderr": "b"}
        assert output(printing, "program") == {"stdout": "out\n", "stderr": "err\n"}
        assert output(printing, "many", 1, "c") == {"stdout": "c\n"}


def test_a_file_that_user_code_puts_in_the_place_of_a_stream_stays(printing: Orchestrator, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere"
    descriptor = printing.value("os.open", str(path), os.O_WRONLY | os.O_CREAT)
    printing.value("os.dup2", descriptor, 1)
    assert output(printing, "below", "x") == {"stderr": "x"}
    assert path.read_text() == "x"


def test_files_that_take_our_numbers_are_left_alone(printing: Orchestrator, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious")
    printing.send({"namepath": "printing.reuse", "args": [str(path)]})
    assert printing.call_ends()
    printing.accept_worker()
    assert output(printing, "text", "a") == {"stdout": "a"}
    assert path.read_text() == "precious"


def test_no_output_at_all_where_the_bound_is_zero(launch: Callable[..., Orchestrator]) -> None:
    session = launch().start(max_output_bytes=0)
    body = session.call("builtins.print", "x").body
    assert body["truncated"] is True
    assert "stdout" not in body


def test_standard_input_is_empty(session: Orchestrator) -> None:
    assert session.value(["sys", "stdin", "read"]) == ""
    assert session.value("os.readlink", "/proc/self/fd/0") == os.devnull
