"""The examples of docs/protocol.md, run by a shell as they stand there, print what stands there."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.servers import require, running

pytestmark = [pytest.mark.index, pytest.mark.bubblewrap]

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "protocol.md"
TIMEOUT_S = 240.0
_FENCE = re.compile(r"^(?:## (?P<title>[^\n]+)|```(?P<language>\w+)\n(?P<text>.*?)^```)$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    title: str
    script: str
    language: str | None  # of what it prints; None: nothing is shown
    printed: str


def examples(document: str) -> Iterator[Example]:
    """Its `sh` blocks, each with the block that follows if that is one of output."""
    title = ""
    found = list(_FENCE.finditer(document))
    for block, after in zip_longest(found, found[1:]):
        title = block["title"] or title
        if block["language"] != "sh":
            continue
        if after is not None and after["language"] in ("json", "text"):
            yield Example(title, block["text"], after["language"], after["text"])
        else:
            yield Example(title, block["text"], None, "")


EXAMPLES = list(examples(DOCUMENT.read_text()))


def as_pattern(text: str) -> str:
    """`…` stands for anything."""
    return ".*".join(re.escape(piece) for piece in text.split("…"))


def without_space(text: str) -> str:
    return re.sub(r"\s", "", text)


def documents(text: str) -> list[Any]:
    """The JSON documents that a text consists of. Raises ValueError."""
    found = []
    while text := text.strip():
        value, end = json.JSONDecoder().raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def matches(example: Example, printed: str) -> bool:
    if example.language == "json":
        return bool(documents(printed)) and is_like(without_space(printed), without_space(example.printed))
    return is_like(printed.strip("\n"), example.printed.strip("\n"))


def is_like(text: str, shown: str) -> bool:
    return re.fullmatch(as_pattern(shown), text, re.DOTALL) is not None


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each example prints: all run in one shell, one after another."""
    require("bubblewrap")
    place = tmp_path_factory.mktemp("shell")
    (place / "proto").symlink_to(ROOT / "proto")
    protoc = place / "protoc"
    protoc.write_text(f'#!/bin/sh\nexec {sys.executable} -m grpc_tools.protoc "$@"\n')
    protoc.chmod(0o755)
    outputs = [place / f"{number}.out" for number in range(len(EXAMPLES))]
    script = "\n".join(f"{{\n{each.script}\n}} > {out}" for each, out in zip(EXAMPLES, outputs, strict=True))
    with running("bubblewrap") as server:
        token = server.key("reader")["api_id"]
        done = subprocess.run(
            ["sh", "-eu", "-c", script],
            env={**os.environ, "PATH": f"{place}:{os.environ['PATH']}", "KODOU_URL": server.url, "KODOU_TOKEN": token},
            cwd=place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        sessions = server.client("reader").get("/session").json()["sessions"]
    assert (done.returncode, done.stderr) == (0, "")
    assert sessions == []  # the examples end what they began
    return [out.read_text() for out in outputs]


@pytest.mark.parametrize("number", range(len(EXAMPLES)), ids=[each.title for each in EXAMPLES])
def test_an_example_prints_what_stands_beside_it(printed: list[str], number: int) -> None:
    example = EXAMPLES[number]
    assert example.language is None or matches(example, printed[number]), printed[number]


def test_the_comparison_tells_a_difference() -> None:
    example = Example("", "", "json", '{"value": 12, "ms": …}\n')
    assert matches(example, '{"value":12,"ms":0.5}')
    assert not matches(example, '{"value":13,"ms":0.5}')
    assert not matches(example._replace(language="text"), '{"value":12,"ms":0.5}')


def test_the_document_has_its_examples() -> None:
    titles = {example.title for example in EXAMPLES}
    assert len(EXAMPLES) > 20
    assert titles >= {"Set up", "Call", "Typed arguments", "References", "Streaming", "Composition", "Describe"}
