"""What an `Accept` header comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner import frames

from orchestrator.api import accepting
from orchestrator.api.accepting import Wanted, accepted
from orchestrator.api.problems import NotAcceptable

_weights = st.sampled_from(["", ";q=1", ";q=0.5", "; q=0.001", ";q=0", ";q=0.0"])
_ranges = st.sampled_from([*accepting.AVAILABLE, "*/*", "text/*", "image/*", "application/*", "text/html", "x"])
_headers = st.lists(st.tuples(_ranges, _weights).map("".join), max_size=6).map(", ".join)


@pytest.mark.parametrize(
    "accept", [b"", b"*/*", b"application/*", b"text/html, */*;q=0.8", b"Application/JSON; charset=utf-8"]
)
def test_json_is_what_who_does_not_care_gets(accept: bytes) -> None:
    assert accepted(accept) == Wanted()


def test_protocol_buffers_go_by_two_names() -> None:
    assert accepted(b"application/protobuf") == accepted(b"application/x-protobuf")


def test_every_form_of_a_runner_has_a_media_type_that_asks_for_it() -> None:
    assert set(accepting.MEDIA_TYPES) == frames.FORMS
    for form, media_type in accepting.MEDIA_TYPES.items():
        assert accepted(media_type.encode()).forms == (() if form == "json" else (form,))


@pytest.mark.parametrize(
    ("accept", "forms"),
    [
        (b"image/png;q=0.5, text/csv", ("csv", "png")),
        (b"text/csv, image/png", ("csv", "png")),
        (b"image/png, */*;q=0.1", ("png", "json")),
        (b"image/png, application/json;q=0.5, text/plain;q=0.1", ("png", "json")),
        (b"image/*", ("png", "svg")),
        (b"text/*", ("text", "csv")),
        (b"text/*;q=0.5, text/csv", ("csv", "text")),
        (b"text/*, text/plain;q=0", ("csv",)),
        (b"multipart/form-data, application/json", ("typed",)),
        (b"application/vnd.numpy.npy", ("npy",)),
        (b"*/*, application/json;q=0", ("typed",)),
    ],
)
def test_forms_come_in_the_order_in_which_they_are_liked(accept: bytes, forms: tuple[str, ...]) -> None:
    assert accepted(accept) == Wanted(forms)


@pytest.mark.parametrize(
    "accept", [b"application/json;profile=nonfinite", b'application/*; profile="nonfinite"; q=0.9']
)
def test_a_profile_asks_for_numbers_that_json_lacks(accept: bytes) -> None:
    assert accepted(accept) == Wanted(flags=frames.NONFINITE_AS_STRINGS)
    assert accepted(b"multipart/form-data;profile=nonfinite").flags == frames.NONFINITE_AS_STRINGS


@pytest.mark.parametrize(
    "accept", [b"text/event-stream", b"text/event-stream, application/json", b"*/*;q=0.1, text/event-stream"]
)
def test_a_stream_is_made_for_who_likes_it_best(accept: bytes) -> None:
    assert accepted(accept) == Wanted(flags=frames.STREAM, stream=True)


@pytest.mark.parametrize("accept", [b"application/json, text/event-stream", b"text/*", b"*/*"])
def test_a_stream_is_made_for_nobody_else(accept: bytes) -> None:
    assert not accepted(accept).stream


def test_protocol_buffers_are_made_from_the_typed_form() -> None:
    assert accepted(b"application/x-protobuf, application/json;q=0.5") == Wanted(("typed",), protobuf=True)


@pytest.mark.parametrize("accept", [b"text/html", b"application/json;q=0", b"image/jpeg, video/*", b"garbage", b",;"])
def test_what_there_is_not_is_refused_naming_what_there_is(accept: bytes) -> None:
    with pytest.raises(NotAcceptable) as caught:
        accepted(accept)
    assert set(accepting.MEDIA_TYPES.values()) <= set(caught.value.available)


@given(_headers)
def test_no_form_comes_twice_and_json_ends_the_list(accept: str) -> None:
    try:
        wanted = accepted(accept.encode())
    except NotAcceptable:
        return
    assert len(set(wanted.forms)) == len(wanted.forms)
    assert set(wanted.forms) <= frames.FORMS
    assert not {"json", "typed"} & set(wanted.forms[:-1])
    assert not (wanted.stream and wanted.protobuf)


@given(_headers)
def test_what_is_given_no_weight_is_never_made(accept: str) -> None:
    refused = [media_type for media_type in accepting.MEDIA_TYPES.values() if f"{media_type};q=0" in accept.split(", ")]
    only = [each for each in accept.split(", ") if not any(each.startswith(media_type) for media_type in refused)]
    try:
        wanted = accepted(", ".join([*only, *(f"{each};q=0" for each in refused)]).encode())
    except NotAcceptable:
        return
    made = [accepting.MEDIA_TYPES[form] for form in wanted.forms or ("json",)]
    assert wanted.stream or wanted.protobuf or not set(made) & set(refused)
