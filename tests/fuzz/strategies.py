"""What is nearly right gets further into a parser than noise does."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
# Noise that no parser should mind, apart from what is special to its own grammar.
_NOISE = [
    b"",
    b" ",
    b"\t",
    b"\r",
    b"\n",
    b"\0",
    b"\x1f",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"\xc2\xa0",
    b"\xc3\xa9",
]
_JSON_TOKENS = [
    *rb"{ } [ ] , : \ \u0000 \ud800 \udc00 \x NaN -Infinity 1e999 -0 01 1. .5 null tru // ".split(b" "),
    *(b'"', b"9" * 30, b"9" * 5000, b"\xef\xbb\xbf", b"[" * 1000, b'{"a":' * 1000),
]


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """One of the seeds with a few places cut out, doubled, or replaced by a token or noise."""
    found = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(found)))
        end = min(len(found), at + draw(st.sampled_from([0, 1, 2, 8, 40])))
        found[at:end] = draw(
            st.sampled_from([*tokens, *_NOISE]) | st.binary(max_size=3) | st.just(bytes(found[at:end]) * 2)
        )
    return bytes(found)


def json_bodies(*seeds: bytes) -> st.SearchStrategy[bytes]:
    return mutated(seeds, _JSON_TOKENS) | st.binary(max_size=60)


def text_of(strategy: st.SearchStrategy[bytes]) -> st.SearchStrategy[str]:
    return strategy.map(lambda data: data.decode(errors="surrogateescape"))


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The bytes cut at these places, as far as they lie inside."""
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def same(one: Any, other: Any) -> bool:
    """Equal, NaN to NaN too, and of equal types."""
    return repr(one) == repr(other)
