"""What an `Accept` header asks of a call's reply: forms of its value in order of liking, a stream, Protocol Buffers.

RFC 9110, 12.5.1: of several ranges that fit a media type the most specific one gives its weight. Streams and Protocol
Buffers are replies of another kind: they count only where they are named in words, and liked best.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from runner import frames

from orchestrator.api.problems import NotAcceptable

JSON = "application/json"
MULTIPART = "multipart/form-data"
EVENT_STREAM = "text/event-stream"
PROTOBUF = "application/x-protobuf"

# By form of `runner.frames.FORMS`, the one that is liked best where the client does not care first.
MEDIA_TYPES: Mapping[str, str] = {
    "json": JSON,
    "typed": MULTIPART,
    "text": "text/plain",
    "csv": "text/csv",
    "png": "image/png",
    "svg": "image/svg+xml",
    "arrow": "application/vnd.apache.arrow.stream",
    "npy": "application/x-npy",
    "octets": "application/octet-stream",
}
NONFINITE = f"{JSON}; profile=nonfinite"
AVAILABLE = (*MEDIA_TYPES.values(), NONFINITE, EVENT_STREAM, PROTOBUF)

_ALIASES = {"application/vnd.numpy.npy": MEDIA_TYPES["npy"], "application/protobuf": PROTOBUF}
_FORMS = {media_type: form for form, media_type in MEDIA_TYPES.items()}
_OTHER_KINDS = (EVENT_STREAM, PROTOBUF)
# Forms that any value has, or else is a failure in any: what is liked less is never come to.
_LAST = frozenset({frames.JSON, frames.TYPED})
_MOST_RANGES = 50  # those after them are not looked at
_WEIGHT = re.compile(r"0(\.[0-9]*)?|1(\.0*)?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """`forms` as in `Work`: empty where JSON is all that is wanted. `flags` are those of the request's frame.

    With `protobuf` the reply is a `kodou.v1.CallReply`, made from the typed form.
    """

    forms: tuple[str, ...] = ()
    flags: int = 0
    stream: bool = False
    protobuf: bool = False


@dataclass(frozen=True, slots=True)
class _Range:
    name: str
    weight: float
    place: int
    nonfinite: bool

    def fit(self, media_type: str) -> int:
        """How specifically it means this type; 0: not at all."""
        if self.name == media_type:
            return 3
        if self.name == media_type.partition("/")[0] + "/*" and media_type not in _OTHER_KINDS:
            return 2
        return int(self.name == "*/*" and media_type not in _OTHER_KINDS)


_JSON = Wanted()


@lru_cache(maxsize=256)
def accepted(accept: bytes) -> Wanted:
    """Raises: NotAcceptable: no form of a reply that the client takes; names those there are."""
    if not accept:
        return _JSON
    liked = _liked(tuple(_ranges(accept)))
    if not liked:
        msg = "none of the media types asked for is one that a call's reply may have"
        raise NotAcceptable(msg, available=AVAILABLE)
    best, range_ = liked[0]
    if best in _OTHER_KINDS:
        return _other_kind(best, range_)
    forms: list[str] = []
    for media_type, range_ in liked:
        if media_type not in _OTHER_KINDS:
            forms.append(_FORMS[media_type])
            if forms[-1] in _LAST:
                flags = frames.NONFINITE_AS_STRINGS if range_.nonfinite else 0
                return Wanted(() if forms == [frames.JSON] else tuple(forms), flags)
    return Wanted(tuple(forms))


def _other_kind(media_type: str, range_: _Range) -> Wanted:
    if media_type == PROTOBUF:
        return Wanted((frames.TYPED,), protobuf=True)
    return Wanted(flags=frames.STREAM | (frames.NONFINITE_AS_STRINGS if range_.nonfinite else 0), stream=True)


def _liked(ranges: tuple[_Range, ...]) -> list[tuple[str, _Range]]:
    """Media types that the ranges let in, each with the range that speaks for it, the one liked best first."""
    found = []
    for media_type in (*MEDIA_TYPES.values(), *_OTHER_KINDS):
        fitting = [each for each in ranges if each.fit(media_type)]
        if fitting:
            best = max(fitting, key=lambda each: (each.fit(media_type), each.weight, -each.place))
            if best.weight > 0:
                found.append((media_type, best))
    return sorted(found, key=lambda each: (-each[1].weight, each[1].place))


def _ranges(accept: bytes) -> Iterator[_Range]:
    for place, part in enumerate(accept.decode("latin-1").lower().split(",", _MOST_RANGES)[:_MOST_RANGES]):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        weight = values.get("q", "1")
        yield _Range(
            _ALIASES.get(name, name),
            float(weight) if _WEIGHT.fullmatch(weight) else 1.0,
            place,
            values.get("profile", "").strip('"') == "nonfinite",
        )
