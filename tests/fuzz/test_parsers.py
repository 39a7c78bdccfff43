"""Texts of clients, packages, indexes and builders: each parser takes them or refuses them as it says, and does no more."""

import contextlib
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from runner import frames

from orchestrator.api import accepting, call_bodies, credentials, parsing, problems, progress
from orchestrator.api.hosts import checker
from orchestrator.api.problems import MalformedRequest, MisdirectedRequest, NotAcceptable
from orchestrator.auth.tokens import Tokens
from orchestrator.egress import heads
from orchestrator.environments.lock import Lock
from orchestrator.environments.requirements import canonical
from orchestrator.errors import Defect, DependencyUnresolvable, InvalidRequest, SessionNotFound, Unauthorized
from orchestrator.packages.index import Index
from orchestrator.records import Key
from orchestrator.sandboxes.interpreters import described
from orchestrator.settings import Settings
from tests.fuzz.strategies import JSON, json_bodies, mutated, same, text_of
from tests.unit.environments.fakes import interpreter, lock_text, settings_in

HERE = interpreter("3.12.4")
INDEX = Index.of(settings_in(Path("/nowhere")))
REFUSALS = (MalformedRequest, InvalidRequest)

# --- dependencies ---

_dependencies = text_of(
    mutated(
        [b"numpy", b"requests[socks,Security]>=2.31,<3", b'a.B_c ~= 1.4.2 ; python_version < "3.12" and extra == "x"'],
        [
            *rb"@ :// file:///etc -r --index-url \ ${A} # ( ) [ ] ; === != .* , and or not in ' 1.0.post1+l".split(),
            b"(" * 99,
        ],
    )
)


@given(st.lists(_dependencies, max_size=4), st.randoms(use_true_random=False))
def test_a_dependency_set_is_refused_or_has_one_form_that_holds_only_names(texts: list[str], chance: object) -> None:
    try:
        found = canonical(texts, max_count=50, max_bytes=300)
    except InvalidRequest:
        return
    assert canonical(found, max_count=50, max_bytes=1000) == found
    chance.shuffle(texts)  # type: ignore[attr-defined]
    assert canonical(texts, max_count=50, max_bytes=300) == found
    for line in found:
        assert line.isascii()
        assert line.isprintable()
        assert line[0].isalnum()
        assert not set(line) & set("@/\\#$:{}")
        assert Requirement(line).url is None


# --- locks, which a builder sandbox may have written ---

_LOCK = lock_text({"b": "2", "a-c": "1"}).encode()
_LOCK_TOKENS = [
    *rb""" " ' \"\"\" [ ] { } = . , # \u0000 \ud800 a.b.c.d ../../x %2e%2e%2f ? @ 1979-05-27 inf """.split(),
    *rb"-1.0-py3-none-any.whl file:///etc/passwd http://127.0.0.1/ path= vcs={} directory={} archive={} .tar.gz sha256".split(),
    *(b'[[packages]]\nname = "a"\n', b'marker = "extra == 1"\n', b"size = -1", b"9" * 5000, b"[" * 500, b"a" * 300),
]


@given(text_of(mutated([_LOCK], _LOCK_TOKENS)))
def test_a_lock_is_refused_or_names_files_of_the_index_by_hash(text: str) -> None:
    try:
        lock = Lock.parse(text, HERE, INDEX)
    except DependencyUnresolvable:
        return
    for file in lock.files:
        assert INDEX.permits(file.url)
        assert "/" not in file.filename
        assert not file.filename.startswith(".")
        assert len(file.sha256) == 64


# --- what a builder's code asks of the index proxy, and prints ---

_heads = mutated(
    [
        b"CONNECT files.pythonhosted.org:443 HTTP/1.1\r\nHost: files.pythonhosted.org:443\r\nUser-Agent: uv",
        b"GET http://pypi.org/simple/a/?x=1 HTTP/1.1\r\nHost: pypi.org\r\nAccept: */*\r\nProxy-Authorization: Basic eA==",
        b"POST http://[::1]:80/ HTTP/1.0\r\nHost: [::1]\r\nContent-Length: 5",
    ],
    [
        *rb"@ : // [ ] # ? % \ http:// https:// 127.0.0.1 :65536 :0x50 :+80 HTTP/2 HEAD Transfer-Encoding:x".split(),
        b"\r\n",
    ],
)


@given(_heads, st.booleans())
def test_a_request_to_a_proxy_is_refused_or_has_one_destination(head: bytes, absolute: bool) -> None:
    try:
        request = heads.parsed(head)
    except heads.Rejected:
        return
    assert request.host == request.host.lower()
    assert not set(request.host) & set("@/[]# \r\n\\")
    assert 0 <= request.port < 65536
    if not request.is_tunnel:  # what is sent on leads to the same place, and is one request
        sent = request.head(absolute=absolute)
        assert sent.count(b"\r\n\r\n") == 1
        (host,) = (line for line in sent.split(b"\r\n") if line.lower().startswith(b"host:"))
        assert host.decode()[6:].lower() in (request.authority, request.authority.removesuffix(":80"))


@given(json_bodies(b'{"version":"3.12.4","platform":"x86_64-manylinux_2_36","markers":{"os_name":"posix"}}'))
def test_what_an_interpreter_says_of_itself_is_checked(line: bytes) -> None:
    with contextlib.suppress(Defect):
        assert described(line, base="b", base_digest="e", digest="d", runner="1").version


# --- what clients send ---


def _parsed_by_us(body: bytes, *, any_number: bool) -> object:
    return parsing.loads(body, max_depth=50, any_number=any_number)


@given(
    json_bodies(b'{"a":[1,-2.5e3,"x\\u00e9\\ud83d\\ude00",null,true],"b":{"c":"[{"}}', b'"\\\\"', b"[[[0]]]"),
    st.booleans(),
)
def test_json_is_refused_or_is_what_python_reads(body: bytes, any_number: bool) -> None:
    try:
        found = _parsed_by_us(body, any_number=any_number)
    except REFUSALS:
        return
    text = body.decode()
    pairs: list[int] = []

    def unique(members: list[tuple[str, object]]) -> dict[str, object]:
        pairs.append(len(members) - len(dict(members)))
        return dict(members)

    if b"9" * 4301 not in body:
        assert same(found, json.loads(text, object_pairs_hook=unique))
        assert not any(pairs), "a member was there twice"
    json.dumps(found, ensure_ascii=False).encode()  # no lone surrogate
    if not any_number:
        json.dumps(found, allow_nan=False)


@given(JSON, st.booleans())
def test_json_of_any_encoder_is_taken_where_its_numbers_are_finite(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    if not {"NaN", "Infinity", "-Infinity"} & set(text.replace(",", " ").replace("]", " ").replace("[", " ").split()):
        with contextlib.suppress(MalformedRequest):  # `NaN` behind a key
            assert same(_parsed_by_us(text.encode(), any_number=False), json.loads(text))


_calls = json_bodies(
    b'{"sessionid":"a.b.c","timeout":"20000","namepath":[{"moduleName":"math"},"sqrt"],"args":[9]}',
    b'{"timeout":1.5,"namepath":"len","kwargs":{"a":null}}',
    b'{"namepath":["a",{"name":"b","args":{"c":1}}],"timeout":7,"sessionid":""}',
)


@given(_calls)
def test_the_fast_reading_of_a_call_and_the_slow_one_agree(body: bytes) -> None:
    try:
        fast = call_bodies.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        with contextlib.suppress(*REFUSALS):
            call_bodies.members_slowly(body, max_depth=100)
        return
    try:
        slow = call_bodies.members_slowly(body, max_depth=100)
    except REFUSALS:
        return  # a member twice, a lone surrogate, too deep: the runner refuses these too, or the depth check before
    assert same(slow, (fast.sessionid, fast.timeout))
    with contextlib.suppress(InvalidRequest):
        seconds = call_bodies.timeout_seconds(fast.timeout, Settings(data_dir=Path("/nowhere")))
        assert 0 < seconds <= 600


@given(
    mutated(
        [b"application/json; profile=nonfinite, text/*;q=0.5", b"*/*", b"text/html"], [b",", b";", b"=", b'"', b"q=0"]
    )
)
def test_an_accept_header_asks_for_what_there_is_or_is_refused(accept: bytes) -> None:
    with contextlib.suppress(NotAcceptable):
        assert set(accepting.accepted(accept).forms) <= frames.FORMS


@given(
    st.dictionaries(
        st.sampled_from([b"authorization", b"x-consumer-custom-id", b"content-type", b"content-encoding"]),
        mutated(
            [b"Bearer a.b.c", b"Basic a2V5OnNlY3JldA==", b"application/json"], [b" ", b":", b"=", b"\xff", b"\0", b","]
        ),
    )
)
def test_headers_show_a_key_or_are_refused(headers: dict[bytes, bytes]) -> None:
    with contextlib.suppress(Unauthorized):
        credentials.credentials(headers)
    with contextlib.suppress(problems.UnsupportedMediaType):
        parsing.check_headers(headers)


_check_host = checker(Settings(data_dir=Path("/nowhere")))


@given(
    mutated(
        [b"localhost:8000", b"[::1]:80", b"127.0.0.1"],
        [b":", b".", b"[", b"]", b"@", b"%", b"\xff", b" ", b"a.localhost"],
    )
)
def test_a_host_is_this_server_s_or_refused(host: bytes) -> None:
    with contextlib.suppress(MalformedRequest, MisdirectedRequest):
        _check_host(host, "1.1")


# --- tokens ---

_keys = tempfile.TemporaryDirectory()
_tokens = Tokens.load(Path(_keys.name))
_key = Key("a" * 32, "ada", "ada", frozenset({"call"}), "0" * 64, datetime(2026, 1, 1, tzinfo=UTC))
_API_ID = _tokens.api_id(_key)


@given(
    text_of(
        mutated([_API_ID.encode()], [b".", b"=", b"-", b"eyJhbGciOiJub25lIn0", b"e30", b"\0", b"\xc3\xa9", b"A" * 50])
    )
)
def test_a_token_is_the_one_that_was_made_or_nothing(token: str) -> None:
    with contextlib.suppress(Unauthorized):
        assert _tokens.read_api(token).key_id == _key.id
        assert token == _API_ID
    try:
        _tokens.read_session(token)
    except SessionNotFound:
        return
    raise AssertionError(token)


# --- what goes out ---


@given(st.text(alphabet=st.characters() | st.sampled_from("\r\n\x85\u2028\u2029:\0\ud800")))
def test_an_event_is_one_event_whatever_it_tells(text: str) -> None:
    sent = progress._sent("progress", {"line": text}).decode()
    assert sent.endswith("\n\n")
    event, data = sent[:-2].splitlines()
    assert event == "event: progress"
    assert json.loads(data.removeprefix("data: "))["line"] == text.encode(errors="replace").decode()
