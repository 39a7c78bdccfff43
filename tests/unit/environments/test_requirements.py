from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

from orchestrator.environments.requirements import canonical, request_digest
from orchestrator.errors import InvalidRequest
from tests.unit.environments.fakes import interpreter, settings_in


def form(*dependencies: str, max_count: int = 50, max_bytes: int = 2000) -> tuple[str, ...]:
    return canonical(list(dependencies), max_count=max_count, max_bytes=max_bytes)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["NumPy", "requests"], ("numpy", "requests")),
        (["zope.interface", "a__b", "a-B"], ("a-b", "zope-interface")),
        (["  requests [ Security, socks ]  >= 2.31 ,<3 "], ("requests[security,socks]<3,>=2.31",)),
        (["requests[A.b,a_B]"], ("requests[a-b]",)),
        (["requests (>=2.0)"], ("requests>=2",)),
        (["a==1.0.0", "a==1"], ("a==1",)),
        (["a~=1.0"], ("a~=1.0",)),
        (["a==1.0.*"], ("a==1.0.*",)),
        (["a===1.0RC1"], ("a===1.0rc1",)),
        (["a==1.0+Local.1"], ("a==1+local.1",)),
        (["a>1", "a<3"], ("a<3", "a>1")),
        (["tomli; python_version<'3.11'"], ('tomli; python_version < "3.11"',)),
        (["a;os_name=='nt'  and  (python_version>'3')"], ('a; os_name == "nt" and python_version > "3"',)),
        ([], ()),
    ],
)
def test_equal_sets_have_one_form(written: list[str], expected: tuple[str, ...]) -> None:
    assert form(*written) == expected


@pytest.mark.parametrize(
    ("dependency", "reason"),
    [
        ("-r /etc/passwd", "option"),
        ("--index-url=http://x", "option"),
        ("-e .", "option"),
        ("./package", "path"),
        ("/etc/passwd", "path"),
        ("..", "path"),
        ("a\\b", "path"),
        ("numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl", "path"),
        ("numpy-2.4.6.tar.gz", "path"),
        ("Numpy-1.0.ZIP", "path"),
        ("foo @ file:///etc/passwd", "URL"),
        ("foo @ http://169.254.169.254/", "URL"),
        ("foo@bar", "URL"),
        ("git+ssh://host/x", "URL"),
        ("https://pypi.org/x.whl", "URL"),
        ("numpy\nrequests", "character"),
        ("numpy\r", "character"),
        ("numpy\x00", "character"),
        ("${HOME}", "character"),
        ("numpy # comment", "character"),
        ("numpy==\uff11.0", "character"),
        ("\uff4eumpy", "character"),
        ("numpy==\u0663", "character"),
        ("\ud800", "character"),
        ("numpy\u2028", "character"),
        ("", "empty"),
        (" \t ", "empty"),
        ("numpy pandas", "PEP 508"),
        ("numpy>=", "PEP 508"),
        ("_numpy", "PEP 508"),
        ("numpy; nonsense == '1'", "PEP 508"),
        ("a===arbitrary", "PEP 508"),
        ("a>1.*", "PEP 508"),
        ("a; " + "(" * 980 + "os_name=='x'" + ")" * 980, "PEP 508"),
        ("a" * 2001, "longer"),
        ("é" * 1001, "longer"),
        (7, "not a string"),
        (None, "not a string"),
        ({"a": 1}, "not a string"),
    ],
)
def test_what_is_not_the_name_of_a_package_is_refused_with_its_position(dependency: object, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        canonical(["numpy", "requests", dependency], max_count=50, max_bytes=2000)  # type: ignore[list-item]
    assert caught.value.field == "dependencies[2]"
    assert caught.value.detail.isprintable()
    assert caught.value.detail.isascii()
    assert len(caught.value.detail) < 400


@pytest.mark.parametrize("dependencies", ["numpy", {"numpy": 1}, None, 5, b"numpy"])
def test_only_a_list_will_do(dependencies: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        canonical(dependencies, max_count=50, max_bytes=200)  # type: ignore[arg-type]
    assert caught.value.field == "dependencies"


def test_a_set_is_bounded_in_count_and_length() -> None:
    assert len(form(*(f"p{n}" for n in range(50)))) == 50
    with pytest.raises(InvalidRequest) as caught:
        form(*(f"p{n}" for n in range(51)))
    assert caught.value.field == "dependencies"
    assert form("a" * 200, max_bytes=200)
    with pytest.raises(InvalidRequest):
        form("a" * 201, max_bytes=200)


several = settings(max_examples=30)
NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,8}[A-Za-z0-9])?", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}((a|b|rc|\.post|\.dev)[0-9]{1,2})?", fullmatch=True)
SPECIFIERS = st.builds("{}{}".format, st.sampled_from([">=", "<=", "==", "!=", "<", ">"]), VERSIONS)
ATOMS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["python_version", "os_name", "sys_platform", "extra"]),
    st.sampled_from(["==", " != ", ">=", " < "]),
    st.sampled_from(["'3.11'", '"linux"', "'x y'"]),
)
MARKERS = st.recursive(
    ATOMS, lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner), max_leaves=4
)


@st.composite
def requirements(draw: st.DrawFn) -> str:
    extras = draw(st.lists(NAMES, max_size=3))
    specifiers = draw(st.lists(SPECIFIERS, max_size=3))
    marker = draw(st.none() | MARKERS)
    return "".join(
        (
            draw(NAMES),
            f"[{','.join(extras)}]" if extras else "",
            ",".join(specifiers),
            f" ; {marker}" if marker else "",
        )
    )


@several
@given(st.lists(requirements(), max_size=6), st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(dependencies: list[str], random: object) -> None:
    shuffled = [*dependencies, *dependencies[:2]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert form(*shuffled) == form(*dependencies)


@several
@given(st.lists(requirements(), max_size=6))
def test_the_canonical_form_of_a_canonical_form_is_itself(dependencies: list[str]) -> None:
    once = form(*dependencies)
    assert form(*once) == once


@several
@given(NAMES, st.lists(NAMES, max_size=3), st.lists(SPECIFIERS, max_size=3), st.none() | MARKERS, st.data())
def test_case_separators_and_white_space_do_not_matter(
    name: str, extras: list[str], specifiers: list[str], marker: str | None, data: st.DataObject
) -> None:
    def loosely(text: str) -> str:
        recased = data.draw(st.sampled_from([text.upper(), text.lower(), text]))
        separator = data.draw(st.sampled_from(["-", "_", ".", "--"]))
        return "".join(separator if c in "._-" else c for c in recased)

    space = st.sampled_from(["", " ", "  ", "\t"])
    plain = name + (f"[{','.join(extras)}]" if extras else "") + ",".join(specifiers)
    loose = (
        data.draw(space)
        + loosely(name)
        + data.draw(space)
        + (f"[ {' , '.join(map(loosely, extras))} ]" if extras else "")
        + data.draw(space)
        + f"{data.draw(space)},{data.draw(space)}".join(reversed(specifiers))
        + data.draw(space)
    )
    ending = f" ; {marker}" if marker else ""
    assert form(plain + ending) == form(loose + ending + data.draw(space))


@several
@given(st.text() | st.text(alphabet="abc[](),;<>=!~*+'\" .-_@/\\$#{}\n"))
def test_any_text_is_refused_cleanly_or_becomes_one_plain_line(text: str) -> None:
    try:
        (line,) = form(text)
    except InvalidRequest as exc:
        refusal = exc
    else:
        refusal = None
        assert line.isascii()
        assert line.isprintable()
        assert not line.startswith("-")
        assert Requirement(line).url is None
    if refusal is not None:
        assert refusal.field == "dependencies[0]"
        assert refusal.detail.isprintable()


def test_what_decides_a_resolution_is_in_its_digest() -> None:
    plain = settings_in(Path("/nowhere"))
    digests = {
        request_digest(("numpy",), interpreter(), plain),
        request_digest(("numpy>1",), interpreter(), plain),
        request_digest(("numpy",), interpreter("3.11.9"), plain),
        request_digest(("numpy",), interpreter(digest="rebuilt"), plain),
        request_digest(("numpy",), interpreter(platform="aarch64-manylinux_2_36"), plain),
        request_digest(("numpy",), interpreter(), plain.model_copy(update={"index_url": "https://other/simple"})),
        request_digest(("numpy",), interpreter(), plain.model_copy(update={"exclude_newer": "7 days"})),
    }
    assert len(digests) == 7
    assert request_digest(("numpy",), interpreter(), plain) in digests
