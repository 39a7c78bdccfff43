"""Random calls to a real session: whatever is asked for, one reply comes that the server passes on, and the worker lives."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.conftest import fuzz_seconds
from tests.fuzz.strategies import json_bodies
from tests.servers import Server, Session

# Modules, attributes and ways into an interpreter that are not meant to end it.
_NAMES = """
    math json int len str list dict object type print getattr map zip range iter next sorted set bytes repr vars dir super
    itertools functools operator collections decimal datetime fractions enum re sys builtins inspect types string
    count cycle partial reduce attrgetter itemgetter OrderedDict namedtuple Decimal Fraction datetime date compile
    sqrt pi dumps loads upper join format real imag from_bytes to_bytes fromkeys keys modules path version maxsize
    __init__ __class__ __subclasses__ __call__ __dict__ __doc__ __mro__ __name__ __module__ __new__ __repr__ __iter__
    __getattribute__ __reduce__ mro no_such_name é _ a.b .. x.
""".split()  # noqa: SIM905
_names = st.sampled_from(_NAMES) | st.text(max_size=4)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats() | st.text(max_size=8) | st.just(10**40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_arguments = st.fixed_dictionaries(
    {},
    optional={
        "args": st.lists(_values, max_size=3) | st.dictionaries(_names, _values, max_size=2) | _values,
        "kwargs": st.dictionaries(_names, _values, max_size=2) | _values,
    },
)
_elements = _names | st.tuples(
    st.sampled_from(["name", "moduleName", "name", "ref"]), _names | _values, _arguments
).map(lambda parts: {parts[0]: parts[1], **parts[2]})
_requests = st.tuples(st.lists(_elements, max_size=4) | _names | _values, _arguments).map(
    lambda parts: {"namepath": parts[0], **parts[1]}
)
_bodies = _requests.map(lambda request: json.dumps(request).encode()) | json_bodies(
    b'{"namepath":[{"moduleName":"math"},{"name":"sqrt","args":[9]}]}',
    b'{"namepath":"collections.OrderedDict","args":{"a":[1,{"b":null}]},"kwargs":{"c":"\\u00e9"}}',
)


@pytest.fixture(scope="module")
def session(fuzzed: Server) -> Iterator[Session]:
    opened = fuzzed.session("calls", ttl=3600)
    opened.value("os.environ.__setitem__", "MARK", "alive")
    yield opened
    opened.close()


def test_no_call_ends_the_worker_and_each_has_one_reply(session: Session) -> None:
    @settings(
        max_examples=fuzz_seconds(4) * 40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_bodies)
    def called(body: bytes) -> None:
        reply = session.client.post(
            "/environment/python/call",
            content=body,
            headers={"X-Session-ID": session.id, "Content-Type": "application/json"},
        )
        assert reply.status_code in (200, 400, 404, 422), (body, reply.text)
        members = reply.json()
        assert members["error"] in (True, False)
        assert members.get("code") not in ("worker_died", "sandbox_lost"), (body, members)
        if members.get("restarted"):  # nothing but a deadline may cost the session its state
            assert members["code"] == "timeout", (body, members)
            session.value("os.environ.__setitem__", "MARK", "alive")

    called()
    assert session.value("os.environ.get", "MARK") == "alive"
