"""What `describe` tells, and that it runs nothing of what it tells about."""

import enum
import functools
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner.discovery import annotation_texts
from runner.discovery import discover as discover_module
from runner.discovery.discover import discover
from runner.discovery.signatures import signature
from runner.refusal import AttributeNotFound, InvalidRequest, NameNotFound, ReferenceNotFound

STANDARD = [
    "argparse", "array", "asyncio", "base64", "bisect", "builtins", "calendar", "collections", "concurrent.futures",
    "configparser", "contextlib", "csv", "ctypes", "dataclasses", "datetime", "decimal", "email", "enum", "fractions",
    "functools", "hashlib", "heapq", "http.client", "inspect", "io", "ipaddress", "itertools", "json", "logging", "math",
    "multiprocessing", "operator", "os", "pathlib", "pickle", "random", "re", "shutil", "socket", "sqlite3", "ssl",
    "statistics", "string", "subprocess", "sys", "tempfile", "threading", "time", "types", "typing", "unittest.mock",
    "urllib.parse", "uuid", "weakref", "xml.etree.ElementTree", "zipfile", "zoneinfo", "numpy", "numpy.linalg", "pandas",
]  # fmt: skip


def described(namepath: Any = None, kept: Any = None, **members: Any) -> dict[str, Any]:
    """Told, and fit for a reply."""
    body = members if namepath is None else {"namepath": namepath, **members}
    found = discover(json.dumps(body).encode(), kept)
    json.dumps(found, allow_nan=False)
    return found


def listed(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {member["name"]: member for member in found["members"]}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user's, `subject`, for a test to fill."""
    module = ModuleType("subject")
    monkeypatch.setitem(sys.modules, "subject", module)
    return module


# --- what is told ---


def test_a_function_is_told_by_name_kind_signature_parameters_and_doc() -> None:
    assert described("textwrap.shorten") == {
        "name": "textwrap.shorten",
        "kind": "function",
        "type": "function",
        "signature": "(text, width, **kwargs)",
        "parameters": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {"text": {}, "width": {}},
            "required": ["text", "width"],
            "additionalProperties": True,
        },
        "doc": inspect.cleandoc(importlib.import_module("textwrap").shorten.__doc__ or ""),
        "members": [],
    }


@pytest.mark.parametrize(
    ("namepath", "kind"),
    [
        ("json", "package"),
        ("math", "module"),
        ("math.sqrt", "function"),
        ("math.pi", "attribute"),
        ("len", "function"),
        ("int", "class"),
        ("str.upper", "method"),
        ("dict.fromkeys", "classmethod"),
        ("str.maketrans", "staticmethod"),
        ("pathlib.PurePath.name", "property"),
        ("http.HTTPStatus.OK", "attribute"),
        ("numpy.sqrt", "function"),
        ("numpy.ndarray.shape", "property"),
        ("numpy.linalg", "package"),
        ([{"moduleName": "xml.etree.ElementTree"}, "Element"], "class"),
        (["xml", {"moduleName": "sax.saxutils"}, {"name": "escape"}], "function"),
    ],
)
def test_kinds(namepath: Any, kind: str) -> None:
    assert described(namepath)["kind"] == kind


@pytest.mark.parametrize(
    ("namepath", "signature"),
    [
        ("math.sqrt", "(x, /)"),
        ("json.dumps", "(obj, *, skipkeys=False, ensure_ascii=True, check_circular=True, allow_nan=True, cls=None, "
         "indent=None, separators=None, default=None, sort_keys=False, **kw)"),
        ("numpy.sum", "(a, axis=None, dtype=None, out=None, keepdims=..., initial=..., where=...)"),
        ("numpy.sqrt", "(x, /, out=None, *, where=True, casting='same_kind', order='K', dtype=None, subok=True, signature=...)"),
        ("numpy.dot", "(a, b, out=None)"),
        ("numpy.random.default_rng", "(seed=None)"),
        ("fractions.Fraction", "(numerator=0, denominator=None, *, _normalize=True)"),
        ("dict.fromkeys", "(iterable, value=None, /)"),
        ("numpy.ma.sum", "(a, axis=None, dtype=None, out=None, keepdims=...)"),
        ("range", "(stop) -> range object\n(start, stop[, step]) -> range object"),
        ("slice", "(stop)\n(start, stop[, step])"),
        ("datetime.datetime", "(year, month, day, hour=..., minute=..., second=..., microsecond=..., tzinfo=...)"),
        ("str.upper", "(self, /)"),
    ],
)  # fmt: skip
def test_signatures(namepath: str, signature: str) -> None:
    assert described(namepath)["signature"] == signature


def test_members_are_listed_in_order_with_signature_and_summary() -> None:
    found = described("math", prefix="f")
    assert [member["name"] for member in found["members"]] == sorted(
        n for n in dir(importlib.import_module("math")) if n[0] == "f"
    )
    assert listed(found)["floor"] == {
        "name": "floor",
        "kind": "function",
        "signature": "(x, /)",
        "summary": "Return the floor of x as an Integral.",
    }
    assert "truncated" not in found


def test_the_summary_is_not_the_signature_that_a_doc_begins_with() -> None:
    members = listed(described("numpy", prefix="sq"))
    assert members["sqrt"]["summary"] == "Return the non-negative square-root of an array, element-wise."
    assert listed(described("numpy", prefix="abs"))["abs"]["summary"] == "Calculate the absolute value element-wise."
    assert listed(described("itertools", prefix="isl"))["islice"]["summary"].startswith(
        "Return an iterator whose next()"
    )


def test_what_begins_with_an_underscore_is_listed_on_request() -> None:
    assert not [name for name in listed(described("json", limit=1000)) if name.startswith("_")]
    assert "__name__" in listed(described("json", limit=1000, private=True))


@given(limit=st.integers(5, 60))
def test_pages_together_are_the_whole_list(limit: int) -> None:
    whole = described("math", limit=1000)["members"]
    pages: list[dict[str, Any]] = []
    while True:
        page = described("math", limit=limit, after=pages[-1]["name"] if pages else "")
        pages += page["members"]
        if "truncated" not in page:
            break
        assert len(page["members"]) == limit
    assert pages == whole


def test_the_top_level_is_what_can_be_imported_and_the_builtins() -> None:
    found = described(limit=1000)
    assert found["kind"] == "namespace"
    members = listed(found)
    assert members["json"]["kind"] == "package"
    assert members["math"]["kind"] == "module"
    assert members["len"] == {
        "name": "len", "kind": "function", "signature": "(obj, /)", "summary": "Return the number of items in a container.",
    }  # fmt: skip
    assert described([], limit=1000) == found


def test_modules_of_a_package_are_listed_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "parcel"
    package.mkdir()
    (package / "__init__.py").write_text("'''A parcel.'''\n__all__ = ['later']\n")
    (package / "inner.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    found = described("parcel")
    assert found["doc"] == "A parcel."
    assert found["members"] == [{"name": "inner", "kind": "module"}, {"name": "later", "kind": "attribute"}]
    assert "parcel.inner" not in sys.modules
    assert described("parcel.later") == {"name": "parcel.later", "kind": "attribute", "members": []}
    with pytest.raises(InvalidRequest) as refused:
        described("parcel.later.on")
    assert refused.value.field == "namepath[2]"


class Colour(enum.Enum):
    RED = 1


@dataclass
class Point:
    """Where."""

    x: int
    y: float = 0.5


class Pair(NamedTuple):
    first: str
    second: "int | None" = None


class Shape:
    @property
    def area(self) -> float:
        """How much it covers."""
        raise AssertionError

    @functools.cached_property
    def slow(self) -> int:
        """Made once."""
        raise AssertionError

    @classmethod
    def make(cls, size: int) -> "Shape":
        raise AssertionError

    @staticmethod
    def free(a: int, /) -> None: ...

    def grown(self, by: int = 1) -> "Shape":
        raise AssertionError


@pytest.fixture
def shapes(module: ModuleType) -> ModuleType:
    for each in (Colour, Point, Pair, Shape):
        setattr(module, each.__name__, each)
    module.shape = Shape()  # type: ignore[attr-defined]
    return module


def test_members_of_enumerations_are_attributes(shapes: ModuleType) -> None:
    assert described("subject.Colour.RED")["type"].endswith("Colour")
    assert listed(described("subject.Colour"))["RED"] == {"name": "RED", "kind": "attribute"}


def test_classes_are_told_by_their_construction(shapes: ModuleType) -> None:
    assert described("subject.Point")["signature"] == "(x: int, y: float = 0.5)"
    assert "returns" not in described("subject.Point")
    assert described("subject.Pair")["signature"] == "(first: str, second: int | None = None)"
    assert described("subject.Shape")["signature"] == "()"


def test_properties_are_told_by_doc_and_annotation(shapes: ModuleType) -> None:
    found = described("subject.Shape.area")
    assert (found["kind"], found["doc"]) == ("property", "How much it covers.")
    assert found["returns"] == {"type": "number", "x-python": "float"}
    assert described("subject.shape.slow")["doc"] == "Made once."


def test_what_a_property_gives_is_not_told(shapes: ModuleType) -> None:
    with pytest.raises(InvalidRequest) as refused:
        described("subject.shape.area.real")
    assert refused.value.field == "namepath[3]"


def test_methods_of_an_object_have_their_first_argument(shapes: ModuleType) -> None:
    assert described("subject.Shape.grown")["signature"] == "(self, by: int = 1) -> Shape"
    assert described("subject.shape.grown")["signature"] == "(by: int = 1) -> Shape"
    assert described("subject.Shape.make")["signature"] == "(size: int) -> Shape"
    assert described("subject.shape.free")["signature"] == "(a: int, /) -> None"


def test_a_kept_object_is_told_by_its_type() -> None:
    kept = {"r1": Shape()}

    def get(name: str, field: str) -> object:
        if name not in kept:
            raise ReferenceNotFound(name, field)
        return kept[name]

    found = described([{"ref": "r1"}], get)
    assert (found["kind"], found["name"]) == ("object", "r1")
    assert {"area", "grown"} <= listed(found).keys()
    assert described([{"ref": "r1"}, "grown"], get)["signature"] == "(by: int = 1) -> Shape"
    with pytest.raises(ReferenceNotFound):
        described([{"ref": "r2"}], get)


@pytest.mark.parametrize(
    ("kept", "signature", "doc"),
    [
        (Shape().grown, "(by: int = 1) -> Shape", None),
        (functools.partial(json.dumps, indent=1, sort_keys=True), None, None),
        (len, "(obj, /)", "Return the number of items in a container."),
        (Point, "(x: int, y: float = 0.5)", "Where."),
    ],
)
def test_what_can_be_called_is_told_so_where_it_is_kept_too(
    kept: object, signature: str | None, doc: str | None
) -> None:
    found = described([{"ref": "r1"}], lambda name, field: kept)
    assert found["kind"] == ("class" if isinstance(kept, type) else "function")
    assert signature is None or found["signature"] == signature
    assert doc is None or found["doc"] == doc
    assert found["parameters"]["type"] == "object"


class Scale:
    """Multiplies."""

    def __call__(self, x: float, by: int = 2) -> float:
        raise AssertionError


def test_objects_that_can_be_called_are_told_by_their_call(module: ModuleType) -> None:
    module.scale = Scale()  # type: ignore[attr-defined]
    found = described("subject.scale")
    assert (found["kind"], found["signature"], found["doc"]) == (
        "function",
        "(x: float, by: int = 2) -> float",
        "Multiplies.",
    )
    assert listed(described("subject"))["scale"] == {
        "name": "scale", "kind": "function", "signature": "(x: float, by: int = 2) -> float", "summary": "Multiplies.",
    }  # fmt: skip


def test_arguments_that_a_partial_gives_by_name_are_defaults_and_what_follows_is_named(module: ModuleType) -> None:
    def subject(a: int, b: str, c: int = 1, *d: int, e: int) -> int: ...

    module.partial = functools.partial(subject, 1, b="x", e=2)  # type: ignore[attr-defined]
    assert described("subject.partial")["signature"] == "(*, b: str = 'x', c: int = 1, e: int = 2) -> int"
    assert described("subject.partial")["parameters"]["required"] == []


def test_a_declared_signature_goes_before_all_else(module: ModuleType) -> None:
    def wrapper(*args: object, **kwargs: object) -> None: ...

    class Declared:
        __signature__ = inspect.signature(lambda size, *, colour="red": 0)

        def __init__(self, **kwargs: object) -> None: ...

    wrapper.__signature__ = inspect.signature(Shape.grown)  # type: ignore[attr-defined]
    module.wrapper, module.Declared = wrapper, Declared  # type: ignore[attr-defined]
    assert described("subject.wrapper")["signature"] == "(self, by: int = 1) -> Shape"
    assert described("subject.Declared")["signature"] == "(size, *, colour='red')"


def test_instances_that_a_metaclass_makes_in_its_own_way_have_no_known_signature(module: ModuleType) -> None:
    class Meta(type):
        def __call__(cls, size: int) -> object:
            raise AssertionError

    module.made = Meta("Made", (), {})  # type: ignore[attr-defined]
    assert "parameters" not in described("subject.made")


def test_docs_and_signatures_are_bounded(module: ModuleType) -> None:
    def long() -> None: ...

    long.__doc__ = "x" * 100_000
    long.__defaults__ = ()
    module.long = long  # type: ignore[attr-defined]
    module.huge = lambda a="y" * 10_000, b=10**9999: None  # type: ignore[attr-defined,misc]
    assert len(described("subject.long")["doc"]) == discover_module.MAX_DOC + 1
    assert described("subject.huge")["signature"] == "(a=..., b=...)"


def test_a_signature_that_a_function_carries_as_text_goes_before_its_code(module: ModuleType) -> None:
    def subject(*args: object) -> None: ...

    subject.__text_signature__ = "(first, /, second=2)"  # type: ignore[attr-defined]
    module.subject = subject  # type: ignore[attr-defined]
    assert described("subject.subject")["signature"] == "(first, /, second=2)"


# --- what is refused ---


@pytest.mark.parametrize(
    ("namepath", "error", "field", "hint"),
    [
        ("maht.sqrt", NameNotFound, "namepath[0]", "did you mean 'math'?"),
        ("math.sqqrt", AttributeNotFound, "namepath[1]", "did you mean 'sqrt'?"),
        ("math..sqrt", InvalidRequest, "namepath", "dots between"),
        (["math", "sqqrt"], AttributeNotFound, "namepath[1]", "did you mean 'sqrt'?"),
        (["math", {"name": "sqrt", "args": [1]}], InvalidRequest, "namepath[1].args", "not called"),
        (["math", {"name": "sqrt", "kwargs": {}}], InvalidRequest, "namepath[1].kwargs", "not called"),
        (["math", {"name": "sqrt", "tuple": []}], InvalidRequest, "namepath[1].tuple", "not called"),
        (["math", {"nmae": "sqrt"}], InvalidRequest, "namepath[1].nmae", "not known"),
        (["math", {"ref": "r1"}], InvalidRequest, "namepath[1].ref", "not known"),
        (["math", {}], InvalidRequest, "namepath[1]", "one of"),
        (["math", {"name": "a", "moduleName": "b"}], InvalidRequest, "namepath[1]", "one of"),
        (["math", 3], InvalidRequest, "namepath[1]", "string or an object"),
        (["math", "a..b"], InvalidRequest, "namepath[1].name", "dots between"),
        (7, InvalidRequest, "namepath", "dotted string or a list"),
        ([{"ref": "r1"}], ReferenceNotFound, "namepath[0].ref", "r1"),
    ],
)
def test_refusals_name_the_element(namepath: Any, error: type[Exception], field: str, hint: str) -> None:
    with pytest.raises(error, match=hint.replace("?", r"\?")) as refused:
        described(namepath)
    assert refused.value.field == field  # type: ignore[attr-defined]


def test_what_importing_raises_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        described("broken")


# --- JSON Schema of the parameters ---


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (int, {"type": "integer"}),
        ("float", {"type": "number"}),
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        ("typing.List[str]", {"type": "array", "items": {"type": "string"}}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "items": False},
        ),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (Optional[int], {"anyOf": [{"type": "integer"}, {"type": "null"}]}),  # noqa: UP045
        (Union[int, list[str]], {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}),  # noqa: UP007
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Literal["a", -1, None], {"enum": ["a", -1, None]}),
        ("Literal[0.5]", {}),
        ("sqlalchemy.Sequence", {}),
        ("collections.abc.Sequence", {"type": "array"}),
        (Annotated[int, "small"], {"type": "integer"}),
        (Point, {}),
        (Any, {}),
        (int | Any, {}),
        (Callable[[int], str], {}),
        ("no annotation at all (", {}),
    ],
)  # fmt: skip
def test_annotations_are_schemas_where_json_has_them(
    module: ModuleType, annotation: object, schema: dict[str, Any]
) -> None:
    def subject(x) -> None: ...  # type: ignore[no-untyped-def]

    subject.__annotations__ = {"x": annotation}
    module.subject = subject  # type: ignore[attr-defined]
    found = described("subject.subject")["parameters"]["properties"]["x"]
    assert {name: value for name, value in found.items() if name != "x-python"} == schema


def test_kinds_and_defaults_of_parameters_are_told(module: ModuleType) -> None:
    def subject(a: int, /, b: str = "x", *c: float, d: Any, e: tuple[int, ...] = (1,), **f: bool) -> None: ...

    module.subject = subject  # type: ignore[attr-defined]
    found = described("subject.subject")
    assert found["signature"] == (
        "(a: int, /, b: str = 'x', *c: float, d: typing.Any, e: tuple[int, ...] = (1,), **f: bool) -> None"
    )
    assert found["parameters"]["properties"] == {
        "a": {"type": "integer", "x-python": "int", "x-kind": "positional_only"},
        "b": {"type": "string", "default": "x", "x-python": "str"},
        "c": {"type": "array", "items": {"type": "number"}, "x-python": "float", "x-kind": "var_positional"},
        "d": {"x-python": "typing.Any", "x-kind": "keyword_only"},
        "e": {
            "type": "array", "items": {"type": "integer"}, "default": [1], "x-python": "tuple[int, ...]",
            "x-kind": "keyword_only",
        },
    }  # fmt: skip
    assert found["parameters"]["required"] == ["a", "d"]
    assert found["parameters"]["additionalProperties"] == {"type": "boolean"}


@pytest.mark.parametrize(
    ("annotation", "types"),
    [(int, ["integer", "null"]), (Optional[int], ["integer", "null"]), (int | str, ["integer", "string", "null"])],  # noqa: UP045
)
def test_null_is_fine_where_it_is_the_default(module: ModuleType, annotation: object, types: list[str]) -> None:
    def subject(x=None) -> None: ...  # type: ignore[no-untyped-def]

    subject.__annotations__ = {"x": annotation}
    module.subject = subject  # type: ignore[attr-defined]
    found = described("subject.subject")["parameters"]["properties"]["x"]
    assert [each["type"] for each in found["anyOf"]] == types


@pytest.mark.parametrize("annotation", [Callable[[int, str], bool], Callable[..., bool]])
def test_callables_are_written_as_python_has_them(module: ModuleType, annotation: object) -> None:
    def subject(x) -> None: ...  # type: ignore[no-untyped-def]

    subject.__annotations__ = {"x": annotation}
    module.subject = subject  # type: ignore[attr-defined]
    assert described("subject.subject")["signature"] == f"(x: {annotation})"


# --- whatever there is ---


@pytest.mark.parametrize("name", STANDARD)
def test_every_name_of_a_module_is_told_and_every_member_listed(name: str) -> None:
    module = importlib.import_module(name)
    found = described(name, private=True, limit=1000)
    assert "truncated" in found or set(dir(module)) <= listed(found).keys()
    for member in found["members"]:
        told = (
            described([{"moduleName": name}, member["name"]], private=True, limit=20)
            if member["name"] in vars(module)
            else {}
        )
        if "parameters" in told:
            jsonschema_rs.validator_for(told["parameters"])
            for schema in told["parameters"]["properties"].values():
                assert "default" not in schema or jsonschema_rs.is_valid(schema, schema["default"]), member["name"]


@pytest.mark.parametrize("kind", [dict, str, int, Path, Shape, Point, importlib.import_module("numpy").ndarray])
def test_members_of_a_class_are_those_of_dir(kind: type, module: ModuleType) -> None:
    module.kind = kind  # type: ignore[attr-defined]
    assert set(listed(described("subject.kind", private=True, limit=1000))) == set(dir(kind))


@pytest.mark.parametrize("name", STANDARD)
def test_parameters_are_those_that_inspect_finds(name: str) -> None:
    for label, function in inspect.getmembers(importlib.import_module(name), inspect.isroutine):
        try:
            expected = [(each.name, each.kind.name) for each in inspect.signature(function).parameters.values()]
        except ValueError:  # it finds none
            continue
        found = signature(function)
        assert found is not None, label
        if found.parameters is None:
            assert "[" in str(found), label  # it says what is optional in brackets, as Python does not
        else:
            assert [(each.name, each.kind.upper()) for each in found.parameters] == expected, label


# --- nothing is run ---

RAN: list[str] = []


def trap(what: str) -> Any:
    def run(*args: object, **kwargs: object) -> Any:
        RAN.append(what)
        msg = f"{what} was run"
        raise RuntimeError(msg)

    return run


SPECIAL = [
    "__getattr__", "__dir__", "__repr__", "__str__", "__eq__", "__lt__", "__bool__", "__len__", "__iter__",
    "__call__", "__format__", "__instancecheck__", "__subclasscheck__",
]  # fmt: skip
PROPERTIES = ["__doc__", "__signature__", "__text_signature__", "__wrapped__", "__annotations__", "plain"]


class TrappedMeta(type):
    """A metaclass that tells on whoever asks a class of it anything."""

    def __getattribute__(cls, name: str) -> Any:
        return trap(f"metaclass {name}")()


for special in SPECIAL:
    setattr(TrappedMeta, special, trap(f"metaclass {special}"))


class Descriptor:
    __get__ = trap("descriptor")


@pytest.fixture
def traps(module: ModuleType) -> Iterator[ModuleType]:
    """A module full of what must not be run."""
    methods = {special: trap(special) for special in [*SPECIAL, "__getattribute__"]}
    properties = {name: property(trap(name)) for name in [*PROPERTIES, "__class__", "__dict__"]}
    body = {**methods, **properties, "descriptor": Descriptor(), "__hash__": object.__hash__}
    trapped = type("Trapped", (), body)
    meta = TrappedMeta("Meta", (), {**body, "__init__": lambda self, a, b=1: None})
    instance = object.__new__(trapped)

    def default(a=instance, b=meta, *, c=(instance,)) -> None: ...  # type: ignore[no-untyped-def]

    def annotated(a: "undefined()", b) -> "1 / 0": ...  # type: ignore[no-untyped-def,name-defined,valid-type]  # noqa: F821

    annotated.__annotations__["b"] = instance
    wrapped = functools.wraps(default)(lambda: None)
    wrapped.__signature__ = instance  # type: ignore[attr-defined]
    module.__getattr__ = trap("module __getattr__")  # type: ignore[method-assign]
    module.__dir__ = trap("module __dir__")  # type: ignore[method-assign]
    vars(module).update(
        trapped=trapped, meta=meta, instance=instance, default=default, annotated=annotated, wrapped=wrapped,
        partial=functools.partial(default, instance), method=default.__get__(instance),
    )  # fmt: skip
    RAN.clear()
    yield module
    RAN.clear()


def test_no_code_of_what_is_described_is_run(traps: ModuleType) -> None:
    names = [name for name in vars(traps) if not name.startswith("__")]
    described("subject", private=True)
    for name in names:
        found = described(["subject", name], private=True, limit=1000)
        for member in found["members"]:
            described(["subject", name, member["name"]], private=True)
    described([{"ref": "r1"}], lambda name, field: vars(traps)["instance"], private=True)
    assert RAN == []


def test_annotations_that_code_of_somebodys_makes_are_left_out(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Python 3.14, where only code that the compiler wrote is read off: see `test_interpreters`."""

    def subject(x: int) -> None: ...

    subject.__annotate__ = trap("__annotate__")  # type: ignore[attr-defined]
    monkeypatch.setattr(annotation_texts, "_annotate", lambda function: vars(function).get("__annotate__"))
    module.subject = subject  # type: ignore[attr-defined]
    assert described("subject.subject")["signature"] == "(x)"
    del subject.__annotate__  # type: ignore[attr-defined]
    assert described("subject.subject")["signature"] == "(x: int) -> None"
    assert RAN == []


def test_what_cannot_be_told_without_running_it_is_left_out(traps: ModuleType) -> None:
    assert described("subject.default")["signature"] == "(a=..., b=subject.Meta, *, c=...) -> None".replace(
        "subject.Meta", f"{__name__}.Meta"
    )
    assert described("subject.annotated")["signature"] == "(a: undefined(), b: …) -> 1 / 0"
    assert described("subject.wrapped")["signature"] == described("subject.default")["signature"]
    assert described("subject.meta")["signature"] == "(a, b=1)"
    with pytest.raises(AttributeNotFound, match="__getattr__ is not run"):
        described("subject.missing")
