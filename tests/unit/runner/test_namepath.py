import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runner.evaluation import namepath
from runner.evaluation.arguments import Reader, parse
from runner.evaluation.namepath import apply
from runner.evaluation.references import References
from runner.refusal import AttributeNotFound, NameNotFound, NotCallable, Refusal


def run(namepath: Any, *args: Any, **kwargs: Any) -> Any:
    nothing = References(max_references=1, max_bytes=1, first=True)
    body = json.dumps({"namepath": namepath, "args": args, "kwargs": kwargs}).encode()
    return apply(parse(body, Reader(lambda: nothing)))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user's, `subject`, for a test to fill."""
    module = ModuleType("subject")
    monkeypatch.setitem(sys.modules, "subject", module)
    return module


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable directory. What a test imports from it is forgotten after."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", sys.modules.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


# --- rule 1: the first element ---


def test_the_first_element_is_a_module() -> None:
    assert run("math.sqrt", 4) == 2.0
    assert run(["math", "sqrt"], 4) == 2.0
    assert run([{"moduleName": "math"}, {"name": "sqrt"}], 4) == 2.0


def test_the_first_element_may_be_a_builtin() -> None:
    assert run("int", "12") == 12
    assert run([{"name": "int", "args": ["200"]}, {"name": "bit_length"}]) == 8
    assert run([{"moduleName": "len"}], [1, 2]) == 2
    assert [run("len", [1]), run("len", [1, 2])] == [1, 2]


def test_a_module_wins_over_a_builtin_of_the_same_name(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a worker once found to be a builtin it does not look for again, and other tests run in this process too.
    monkeypatch.setattr(namepath, "_found_builtins", set())
    (packages / "abs.py").write_text("answer = 42")
    assert run("abs.answer") == 42


def test_a_module_name_may_be_dotted() -> None:
    assert run([{"moduleName": "xml.etree.ElementTree"}, {"name": "fromstring", "args": ["<a/>"]}, "tag"]) == "a"
    assert run([{"moduleName": "os.path"}, "basename"], "a/b") == "b"


def test_a_module_name_prefers_the_module_to_an_attribute_of_that_name(packages: Path) -> None:
    (packages / "pkg").mkdir()
    (packages / "pkg" / "__init__.py").write_text("from .thing import thing")
    (packages / "pkg" / "thing.py").write_text("def thing(): return 'function'\nplace = 'module'")
    assert run("pkg.thing") == "function"
    assert run([{"moduleName": "pkg.thing"}, "place"]) == "module"
    assert run([{"moduleName": "pkg"}, {"moduleName": "thing"}, "place"]) == "module"


@pytest.mark.parametrize(
    ("name", "hint"), [("mathh", "math"), ("flaot", "float"), ("jsn", "json"), ("xqzzwv", None), ("json.nothing", None)]
)
def test_a_name_that_is_nothing_is_refused_with_a_suggestion(name: str, hint: str | None) -> None:
    with pytest.raises(NameNotFound) as caught:
        run([{"moduleName": name}, "x"])
    assert caught.value.field == "namepath[0]"
    assert repr(name) in caught.value.detail
    if hint:
        assert f"did you mean {hint!r}?" in caught.value.detail


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import surely_not_installed", ModuleNotFoundError),
        ("from math import nothing_there", ImportError),
        ("1 / 0", ZeroDivisionError),
        ("raise SystemExit(3)", SystemExit),
        ("raise ModuleNotFoundError('No module named broken', name='broken')", ModuleNotFoundError),
        ("def", SyntaxError),
    ],
)
def test_a_module_that_fails_to_import_has_raised(packages: Path, source: str, error: type[BaseException]) -> None:
    (packages / "broken.py").write_text(source)
    with pytest.raises(error):
        run("broken.x")


# --- rule 2: further elements ---


def test_a_submodule_is_imported_where_the_module_lacks_the_attribute(packages: Path) -> None:
    (packages / "pkg").mkdir()
    (packages / "pkg" / "__init__.py").touch()
    (packages / "pkg" / "sub.py").write_text("def f(x): return x + 1")
    assert run("pkg.sub.f", 1) == 2


def test_a_submodule_that_fails_to_import_has_raised(packages: Path) -> None:
    (packages / "pkg").mkdir()
    (packages / "pkg" / "__init__.py").touch()
    (packages / "pkg" / "sub.py").write_text("import surely_not_installed")
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        run("pkg.sub.f", 1)


@pytest.mark.parametrize(
    ("namepath", "field", "hint"),
    [
        ("math.sqrtt", "namepath[1]", "sqrt"),
        ([{"moduleName": "math"}, "pi", "xqzzwv"], "namepath[2]", None),
        ([{"name": "str", "args": ["x"]}, {"name": "uper"}], "namepath[1]", "upper"),
        ("xml.etree.nothing", "namepath[2]", None),
    ],
)
def test_a_missing_attribute_is_refused_with_its_position(namepath: Any, field: str, hint: str | None) -> None:
    with pytest.raises(AttributeNotFound) as caught:
        run(namepath)
    assert caught.value.field == field
    assert ("did you mean" in caught.value.detail) == (hint is not None)
    assert hint is None or repr(hint) in caught.value.detail


def test_a_property_that_fails_has_raised(module: ModuleType) -> None:
    class Subject:
        @property
        def broken(self) -> int:
            return self.inner_detail  # type: ignore[attr-defined,no-any-return]

        @property
        def divided(self) -> float:
            return 1 / 0

        @property
        def unready(self) -> int:
            msg = "connect first"
            raise AttributeError(msg)

        @property
        def alike(self) -> int:
            return object().alike  # type: ignore[attr-defined,no-any-return]

    class OfInstances:
        def __get__(self, instance: object, owner: type) -> None:
            msg = "not of the class"
            raise AttributeError(msg)

    class Described:
        attribute = OfInstances()

    module.subject, module.Described = Subject(), Described  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="not of the class"):
        run("subject.Described.attribute")
    with pytest.raises(AttributeError, match="inner_detail"):
        run("subject.subject.broken")
    with pytest.raises(AttributeError, match="connect first"):
        run("subject.subject.unready")
    with pytest.raises(AttributeError, match="'object' object has no attribute 'alike'"):
        run("subject.subject.alike")
    with pytest.raises(ZeroDivisionError):
        run("subject.subject.divided")


def test_what_an_object_lacks_in_its_own_words_is_refused(module: ModuleType) -> None:
    class Subject:
        def __getattr__(self, name: str) -> None:
            msg = f"no {name} here"
            raise AttributeError(msg)

    class Slotted:
        __slots__ = ("unset",)

    module.subject, module.slotted, module.Slotted = Subject(), Slotted(), Slotted  # type: ignore[attr-defined]
    for missing in ("subject.subject.nothing", "subject.slotted.unset", "subject.Slotted.nothing"):
        with pytest.raises(AttributeNotFound):
            run(missing)


def test_an_object_whose_dir_fails_is_refused_all_the_same(module: ModuleType) -> None:
    class Subject:
        def __dir__(self) -> list[str]:
            raise ZeroDivisionError

    module.subject = Subject()  # type: ignore[attr-defined]
    with pytest.raises(AttributeNotFound):
        run("subject.subject.nothing")


# --- rules 3 to 5: calls ---


def test_an_inner_element_with_arguments_is_called() -> None:
    assert (
        run(
            [
                {"moduleName": "fractions"},
                {"name": "Fraction", "args": [1], "kwargs": {"denominator": 3}},
                "denominator",
            ]
        )
        == 3
    )
    assert run([{"name": "dict", "args": []}, {"name": "items", "args": []}, "__len__"]) == 0


def test_an_inner_element_without_arguments_is_a_reference() -> None:
    assert run([{"name": "str"}, {"name": "upper"}], "x") == "X"


@pytest.mark.parametrize(
    "element", [{"name": "pi", "args": []}, {"name": "pi", "args": [1]}, {"name": "pi", "kwargs": {}}]
)
def test_an_inner_element_that_is_not_callable_cannot_have_arguments(element: dict[str, Any]) -> None:
    with pytest.raises(NotCallable) as caught:
        run(["math", element, "real"])
    assert caught.value.field == "namepath[1]"


def test_the_last_element_is_called_once_with_its_own_arguments_first(module: ModuleType) -> None:
    seen: list[Any] = []
    module.f = lambda *args, **kwargs: seen.append((args, kwargs))  # type: ignore[attr-defined]
    run(["subject", {"name": "f", "args": [1], "kwargs": {"a": 1, "b": 1}}], 2, b=2, c=2)
    assert seen == [((1, 2), {"a": 1, "b": 2, "c": 2})]
    run("subject.f")
    assert len(seen) == 2


def test_a_last_element_that_is_not_callable_is_the_value() -> None:
    assert run("math.pi") == math.pi
    assert run(["math", {"name": "pi", "args": []}]) == math.pi
    assert run("math") is math


@pytest.mark.parametrize(
    ("namepath", "args", "kwargs", "field"),
    [
        ("math.pi", [1], {}, "args"),
        ("math.pi", [], {"x": 1}, "kwargs"),
        (["math", {"name": "pi", "args": [1]}], [], {}, "namepath[1]"),
        ("math", [1], {}, "args"),
        ([{"name": "math", "args": [1]}], [], {}, "namepath[0]"),
    ],
)
def test_arguments_for_what_is_not_callable_are_refused(
    namepath: Any, args: list[Any], kwargs: dict[str, Any], field: str
) -> None:
    with pytest.raises(NotCallable) as caught:
        run(namepath, *args, **kwargs)
    assert caught.value.field == field


def test_init_after_a_class_is_its_construction() -> None:
    assert run([{"moduleName": "fractions"}, "Fraction", {"name": "__init__", "args": [1]}], 2).denominator == 2
    assert run([{"name": "list"}, "__init__"], [1, 2]) == [1, 2]
    assert run(["decimal", "Decimal", {"name": "__init__", "args": ["1.50"]}, "normalize"]) == run(
        "decimal.Decimal", "1.5"
    )


def test_init_of_an_object_is_a_method_like_others(module: ModuleType) -> None:
    class Subject:
        def __init__(self, *args: int) -> None:
            self.args = args

    module.subject = Subject()  # type: ignore[attr-defined]
    assert run("subject.subject.__init__", 1) is None
    assert run("subject.subject.args") == (1,)


def test_private_names_may_be_named() -> None:
    assert run([{"name": "int", "args": [5]}, "__add__"], 1) == 6


# --- rule 6: coroutines (iterators: test_results.py) ---


def test_coroutines_are_awaited_on_the_way_and_at_the_end(module: ModuleType) -> None:
    async def connect() -> Any:
        class Connection:
            async def query(self, x: int) -> int:
                return x + 1

        return Connection()

    module.connect = connect  # type: ignore[attr-defined]
    assert run(["subject", {"name": "connect", "args": []}, "query"], 1) == 2


# --- what holds for all ---

small = st.integers(-1000, 1000)
calls = st.one_of(
    st.tuples(
        st.sampled_from(["math.gcd", "operator.add", "operator.mul", "divmod", "max", "operator.lt"]),
        st.tuples(small, small.filter(bool)),
    ),
    st.tuples(
        st.sampled_from(["math.isqrt", "abs", "hex", "bool", "str", "math.factorial"]), st.tuples(st.integers(0, 200))
    ),
    st.tuples(
        st.sampled_from(["str.upper", "len", "textwrap.dedent", "html.escape", "repr", "os.path.basename"]),
        st.tuples(st.text()),
    ),
    st.tuples(
        st.sampled_from(["sorted", "sum", "statistics.mean", "all", "math.prod", "max"]),
        st.tuples(st.lists(small, min_size=1)),
    ),
)


@given(call=calls)
def test_a_call_is_what_python_makes_of_it(call: tuple[str, tuple[Any, ...]]) -> None:
    namepath, args = call
    module = namepath.rpartition(".")[0]
    scope: dict[str, Any] = {}
    exec(f"import {module}" if module and module != "str" else "", scope)
    assert run(namepath, *args) == eval(f"{namepath}(*args)", scope, {"args": args})


methods = st.sampled_from(
    ["upper", "lower", "strip", "title", "swapcase", "casefold", "lstrip", "rstrip", "capitalize"]
)


@given(text=st.text(), chain=st.lists(methods, min_size=1, max_size=6))
def test_a_chain_of_methods_is_what_python_makes_of_it(text: str, chain: list[str]) -> None:
    expected = text
    for method in chain:
        expected = getattr(expected, method)()
    *inner, last = chain
    assert run([{"name": "str", "args": [text]}, *({"name": name, "args": []} for name in inner), last]) == expected


array_steps = st.one_of(
    st.tuples(st.sampled_from(["cumsum", "flatten", "transpose", "copy", "conj", "round"]), st.just(())),
    st.tuples(st.sampled_from(["clip", "__add__", "__mul__", "__rsub__"]), st.tuples(small)),
    st.tuples(st.just("astype"), st.tuples(st.sampled_from(["f8", "i8", "O"]))),
    st.tuples(st.just("reshape"), st.tuples(st.just(-1))),
)


@given(data=st.lists(small, min_size=1, max_size=6), chain=st.lists(array_steps, max_size=5))
def test_a_chain_on_an_array_is_what_numpy_makes_of_it(
    data: list[int], chain: list[tuple[str, tuple[Any, ...]]]
) -> None:
    elements = [{"name": name, "args": args} for name, args in chain]
    try:
        expected = np.array(data)
        for name, args in chain:
            expected = getattr(expected, name)(*args)
    except (TypeError, ValueError) as exc:
        with pytest.raises(type(exc)):
            run(["numpy", {"name": "array", "args": [data]}, *elements, "tolist"])
    else:
        assert run(["numpy", {"name": "array", "args": [data]}, *elements, "tolist"]) == expected.tolist()


@given(parts=st.lists(st.text(st.characters(exclude_characters="."), min_size=1), min_size=1, max_size=3))
def test_any_names_are_found_or_refused(parts: list[str]) -> None:
    with pytest.raises(Refusal):
        run([*(part + "\u2603" for part in parts)])
