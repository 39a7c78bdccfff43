"""What there is to call: pure functions and classes that the standard library and numpy export, found by looking at them.

Which arguments one takes is found by trying: so most random calls come to a value, and not to a `TypeError`.
"""

import builtins
import functools
import importlib
import inspect
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.e2e.outcomes import Json, Quiet, named

Strategy = st.SearchStrategy[Any]
Draw = Callable[[Strategy], Any]
Names = tuple[str, ...]

# --- kinds of arguments ---

small = st.integers(-9, 20)
finite = st.floats(-1e6, 1e6).map(lambda number: round(number, 3))
floats = finite | st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 1e300, 5e-324])
text = st.text(max_size=6) | st.sampled_from(
    ["", "b c", "%d {}", "{0}", "a.b", "/a/../b", "<p>&amp;", "ßǅ", "2020-02-29"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["$ref", "$bytes", "$file", "$object", "$float"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
rows = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(small, min_size=width, max_size=width), min_size=1, max_size=3)
)

# Kept by the session before all else, in this order, so that each has its name there: functions, which JSON cannot hold.
KEPT = [
    ("len",), ("abs",), ("str",), ("int",), ("repr",), ("bool",), ("list",), ("max",), ("operator", "neg"),
    ("operator", "add"), ("operator", "mul"), ("operator", "lt"), ("math", "sqrt"), ("numpy", "sin"), ("numpy", "add"),
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """Arguments that functions tell apart: JSON, or what a callable makes of it, or (`array`) of each of its items.

    `sample` is what is tried.
    """

    name: str
    json: Strategy
    sample: Json
    type: Names = ()
    array: bool = False

    def make(self, json: Json) -> Any:
        if self.name == "function":
            return named(json)
        if not self.type:
            return deepcopy(json)
        function = named(self.type)
        return [function(each) for each in json] if self.array else function(json)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("none", st.none(), None),
        Kind("bool", st.booleans(), True),
        Kind("int", small, 3),
        # Past all that a machine could allocate or count to, so that functions take it as a number, or at once not.
        Kind("big", st.integers(2**64, 10**30) | st.integers(-(10**30), -(2**64)), 10**25),
        Kind("float", floats, 2.5),
        Kind("text", text, "ab"),
        Kind("character", st.characters() | st.sampled_from("aé1 ²Ω"), "a"),
        Kind("numeral", small.map(str) | finite.map(str) | st.sampled_from(["1/3", "[1, 2]", "0x1f", "1e5"]), "12"),
        Kind("word", st.sampled_from(["utf-8", "hex", "sha256", "md5", "<h", "i", "U5", "NFC", "strict"]), "i"),
        Kind(
            "bytes",
            (st.binary(max_size=2) | st.sampled_from([b"abc", b"a,b"])).map(bytes.hex),
            "6162",
            ("bytes", "fromhex"),
        ),
        Kind("ints", st.lists(small, max_size=5), [1, 2, 3]),
        Kind("floats", st.lists(floats, max_size=5), [0.5, 1.5, -2.0]),
        Kind("texts", st.lists(text, max_size=4), ["a", "bc"]),
        Kind("pairs", st.lists(st.tuples(text, small).map(list), max_size=3), [["a", 1], ["b", 2]]),
        Kind("rows", rows, [[1, 2], [3, 4]]),
        Kind("object", st.dictionaries(text, small, max_size=3), {"a": 1, "b": 2}),
        Kind("anything", json_values, [None, {"a": [True]}]),
        Kind("decimal", finite.map(str) | st.sampled_from(["NaN", "-0", "1E+5"]), "1.5", ("decimal", "Decimal")),
        Kind("decimals", st.lists(finite.map(str), max_size=3), ["1.5", "-2"], ("decimal", "Decimal"), array=True),
        Kind("fraction", st.fractions(-9, 9, max_denominator=9).map(str), "1/3", ("fractions", "Fraction")),
        Kind(
            "fractions",
            st.lists(st.fractions(-9, 9, max_denominator=9).map(str), max_size=3),
            ["1/3", "2"],
            ("fractions", "Fraction"),
            array=True,
        ),
        Kind("complex", st.sampled_from(["1+2j", "-1j", "0.5", "nan"]), "1+2j", ("complex",)),
        Kind("date", st.dates().map(str), "2020-02-29", ("datetime", "date", "fromisoformat")),
        Kind("datetime", st.datetimes().map(str), "2020-02-29 12:30:00.5", ("datetime", "datetime", "fromisoformat")),
        Kind("timedelta", finite, 1.5, ("datetime", "timedelta")),
        Kind("tuple", st.lists(small, max_size=4), [1, 2], ("tuple",)),
        Kind("set", st.lists(small, max_size=4), [1, 2], ("set",)),
        Kind("frozenset", st.lists(small, max_size=4), [2, 3], ("frozenset",)),
        Kind("range", st.integers(0, 9), 4, ("range",)),
        Kind("bytearray", st.lists(st.integers(0, 9), max_size=4), [7, 8], ("bytearray",)),
        Kind("uuid", st.uuids().map(str), "12345678-1234-5678-1234-567812345678", ("uuid", "UUID")),
        Kind("path", st.sampled_from(["a/b.c", "/", "..", "a"]), "a/b.c", ("pathlib", "PurePosixPath")),
        Kind("uint8", st.integers(0, 20) | st.just(255), 20, ("numpy", "uint8")),
        Kind("float32", finite, 1.1, ("numpy", "float32")),
        Kind("array", st.lists(small, min_size=1, max_size=5), [1, 2, 3], ("numpy", "array")),
        Kind("matrix", rows, [[1, 2], [3, 5]], ("numpy", "array")),
        Kind("floating", st.lists(floats, max_size=4), [0.5, -1.0], ("numpy", "asarray")),
        Kind("datetime64", st.dates().map(str), "2020-02-29", ("numpy", "datetime64")),
        Kind(
            "blobs",
            st.lists(st.binary(max_size=2).map(bytes.hex), max_size=3),
            ["6162", ""],
            ("bytes", "fromhex"),
            array=True,
        ),
        Kind("arrays", rows, [[1, 2], [3]], ("numpy", "array"), array=True),
        Kind("counter", text, "aab", ("collections", "Counter")),
        Kind("deque", st.lists(small, max_size=4), [1, 2], ("collections", "deque")),
        Kind("function", st.sampled_from(KEPT), ("operator", "neg")),
    )
}

# --- where to look ---

_ALL = ()
MODULES: dict[str, tuple[str, ...]] = {  # those of its names that count; none: all that it exports
    "builtins": _ALL,
    "math": _ALL,
    "cmath": _ALL,
    "operator": _ALL,
    "statistics": _ALL,
    "itertools": _ALL,
    "collections": _ALL,
    "heapq": _ALL,
    "bisect": _ALL,
    "string": _ALL,
    "textwrap": ("dedent", "indent"),  # (others go on without end where a width is no number)
    "difflib": _ALL,
    "unicodedata": _ALL,
    "binascii": _ALL,
    "struct": _ALL,
    "html": _ALL,
    "urllib.parse": _ALL,
    "colorsys": ("rgb_to_yiq", "yiq_to_rgb", "rgb_to_hsv", "hsv_to_rgb"),
    "keyword": _ALL,
    "ipaddress": _ALL,
    "fnmatch": _ALL,
    "stringprep": _ALL,
    "reprlib": _ALL,
    "graphlib": _ALL,
    "re": _ALL,
    "decimal": ("Decimal", "MAX_PREC", "ROUND_UP"),
    "fractions": ("Fraction",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone", "MAXYEAR"),
    "calendar": ("isleap", "leapdays", "monthrange", "weekday", "timegm", "month", "Calendar", "TextCalendar"),
    "functools": ("partial", "reduce", "cmp_to_key"),
    "copy": ("copy", "deepcopy"),
    "json": ("loads", "dumps"),
    "json.encoder": ("JSONEncoder",),
    "ast": ("literal_eval",),
    "pprint": ("pformat", "pprint", "isreadable"),
    "base64": ("b64encode", "b64decode", "b32encode", "b32decode", "b16encode", "b85encode", "b85decode", "a85encode"),
    "zlib": ("crc32", "adler32"),
    "hashlib": ("md5", "sha1", "sha256", "sha512", "blake2b", "new"),
    "hmac": ("digest", "new", "compare_digest"),
    "codecs": ("encode", "decode"),
    "quopri": ("encodestring", "decodestring"),
    "shlex": ("quote", "join"),
    "posixpath": ("basename", "dirname", "join", "split", "splitext", "normpath", "commonpath", "isabs", "sep"),
    "ntpath": ("basename", "dirname", "join", "split", "splitext", "splitdrive", "normpath", "isabs"),
    "pathlib": ("PurePosixPath", "PureWindowsPath"),
    "uuid": ("UUID", "uuid3", "uuid5", "NAMESPACE_DNS"),
    "http": ("HTTPStatus",),
    "array": ("array",),
    "random": ("Random",),
    "types": ("SimpleNamespace", "MappingProxyType"),
    "io": ("BytesIO", "StringIO"),
    "xml.sax.saxutils": ("escape", "unescape", "quoteattr"),
    "numpy": _ALL,
    "numpy.linalg": _ALL,
    "numpy.fft": _ALL,
    "numpy.char": _ALL,
    "numpy.ma": (
        "array",
        "masked_array",
        "masked_equal",
        "masked_where",
        "masked_invalid",
        "masked_less",
        "sum",
        "mean",
    ),
    "numpy.rec": ("fromrecords", "fromarrays"),
    "numpy.random": ("default_rng", "RandomState"),
    "numpy.polynomial.polynomial": ("polyval", "polyadd", "polymul", "polyroots", "polyfit"),
}
# What has an effect, an end that does not come, or an outcome that is another in each process.
DENIED = set(
    """
    open input exit quit breakpoint exec eval compile help id hash globals locals vars dir setattr delattr copyright credits
    license memoryview print super object
    count cycle repeat product permutations combinations_with_replacement ndindex elements
    hosts subnets address_exclude summarize_address_range collapse_addresses
    namedtuple purge template test main
    now today utcnow fromtimestamp utcfromtimestamp timestamp astimezone ctime strftime strptime timetuple samples seed
    save savez savez_compressed savetxt load loadtxt genfromtxt fromfile fromregex memmap tofile dump dumps
    show_config show_runtime info get_include seterr seterrcall geterr geterrcall setbufsize getbufsize set_printoptions
    empty empty_like ndarray nditer nested_iters frompyfunc from_dlpack errstate printoptions may_share_memory shares_memory
    resize setflags byteswap getfield setfield data ctypes base strides flags view spawn bit_generator
    pop popitem mro getbuffer
    """.split()  # noqa: SIM905
)
# Parameters that may leave memory as it was found.
UNSET = {"where", "out"}
# Those that count up to an argument, or take as much memory.
NOT_BIG = {"round", "pow", "ipow", "lshift", "ilshift"}
OPERATORS = set(
    """
    __add__ __sub__ __mul__ __truediv__ __floordiv__ __mod__ __neg__ __abs__ __len__ __getitem__ __contains__ __eq__ __lt__
    __str__ __repr__ __bool__ __iter__ __int__ __float__ __divmod__ __and__ __or__ __call__ __next__ __reversed__
    """.split()  # noqa: SIM905
)
CLASSES_WITH_METHODS = ("str", "bytes", "int", "float", "list", "dict", "set", "frozenset", "tuple", "complex")
# Of generators of random numbers, whose other methods may look for one that fits without end.
DRAWING = set(
    """
    random randint randrange choice choices shuffle sample uniform gauss getrandbits triangular normalvariate randbytes
    integers normal standard_normal permutation permuted rand randn random_sample bytes
    """.split()  # noqa: SIM905
)
# Whose instances have methods that are called further.
OWNERS = {module.partition(".")[0] for module in MODULES} | {"_io", "_random", "_struct", "_hashlib", "_blake2"}


@dataclass(frozen=True)
class Exported:
    """`names`: the module, which may be dotted, unless it is a builtin; then attributes."""

    names: Names

    @property
    def value(self) -> Any:
        return named(self.names)


def _exported(module: str, chosen: Sequence[str]) -> list[Exported]:
    found = importlib.import_module(module)
    names = chosen or getattr(found, "__all__", None) or [name for name in dir(found) if not name.startswith("_")]
    before = () if module == "builtins" else (module,)
    usable = [name for name in names if name in chosen or name not in DENIED]
    return [Exported((*before, name)) for name in sorted(usable) if _counts(getattr(found, name))]


def _counts(value: Any) -> bool:
    """(Of exceptions there would be more than of all else, and any of them takes anything.)"""
    if isinstance(value, type) and issubclass(value, BaseException):
        return False
    return callable(value) or isinstance(value, int | float | str | bytes | tuple | frozenset)


EXPORTED = {module: _exported(module, chosen) for module, chosen in MODULES.items()}
EXPORTED["methods"] = [
    Exported((kind, name))
    for kind in CLASSES_WITH_METHODS
    for name in dir(getattr(builtins, kind))
    if name not in DENIED and (not name.startswith("_") or name in OPERATORS)
]
FUNCTIONS = [each for exported in EXPORTED.values() for each in exported if callable(each.value)]

# --- what one takes ---

Shape = tuple[str, ...]  # names of kinds
Function = Callable[[], Any]
_COMMON = ("int", "float", "text", "bytes", "ints", "texts", "array", "bool")
_ENOUGH = 16


@functools.cache
def shapes(names: Names) -> tuple[Shape, ...]:
    """Of arguments that an exported function has been found to take."""
    return _found(lambda: named(names), _counts_far(names))


@functools.cache
def shapes_before(names: Names, last: str) -> tuple[Shape, ...]:
    """Of arguments that it has been found to take before one of the kind `last`, so that something comes of it to go on with."""
    if last == "big" and _counts_far(names):
        return ()
    return tuple(shape[:-1] for shape in _found(lambda: named(names), _counts_far(names), (last,)))


_of_methods: dict[tuple[type, str], tuple[Shape, ...]] = {}


def shapes_of_method(value: Any, name: str) -> tuple[Shape, ...]:
    """As they are found when one is first looked at of a value of that type."""
    key = type(value), name
    if key not in _of_methods:
        _of_methods[key] = _found(lambda: getattr(_copied(value), name), counts_far=True)
    return _of_methods[key]


def _counts_far(names: Names) -> bool:
    return names[-1] in NOT_BIG or names[0].startswith("numpy")


def _copied(value: Any) -> Any:
    try:
        return deepcopy(value)
    except Exception:
        return copy(value)


def _found(function: Function, counts_far: bool, end: Shape = ()) -> tuple[Shape, ...]:
    """The first that are taken of those tried, which end so."""
    with Quiet():
        taken = (shape for shape in _tried(counts_far, end) if _takes(function, shape, bool(end)))
        return tuple(itertools.islice(taken, _ENOUGH))


@functools.cache
def _tried(counts_far: bool, end: Shape) -> list[Shape]:
    """Any one argument, common ones together, and some others; in no order, but always the same."""
    chance = random.Random(0)
    kinds = [kind for kind in KINDS if kind != "big" or not counts_far]
    if end:
        tried = [(), *((kind,) for kind in _COMMON), *(tuple(chance.choices(_COMMON, k=2)) for _ in range(8))]
    else:
        tried = [(), *((kind,) for kind in kinds), *itertools.product(_COMMON, repeat=2)]
        tried += [tuple(chance.choices(kinds, k=2)) for _ in range(40)]
        tried += [(kind,) * 3 for kind in _COMMON] + [tuple(chance.choices(_COMMON, k=3)) for _ in range(50)]
        chance.shuffle(tried)
    return [shape + end for shape in tried]


def _takes(function: Function, shape: Shape, goes_on: bool) -> bool:
    try:
        found = function()(*(KINDS[kind].make(KINDS[kind].sample) for kind in shape))
    except Exception:
        return False
    return not goes_on or isinstance(found, Iterator | np.generic | np.ndarray) or kind_of(found) is not None


@functools.cache
def parameters(names: Names) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the parameters that may be given by position or by name, in order; and of those by name only."""
    try:
        found = inspect.signature(named(names)).parameters.values()
    except (ValueError, TypeError):
        return (), ()
    either = tuple(each.name for each in found if each.kind is each.POSITIONAL_OR_KEYWORD)
    only = tuple(each.name for each in found if each.kind is each.KEYWORD_ONLY and each.name not in UNSET)
    if any(each.kind is each.POSITIONAL_ONLY for each in found):
        either = ()
    return either, only


def members_of(value: Any) -> tuple[str, ...]:
    """Attributes and methods of a value that may be looked at; none where calling them may do anything."""
    kind = type(value)
    if kind.__module__.partition(".")[0] not in OWNERS or isinstance(value, type):
        return ()
    return _members(kind)


@functools.cache
def _members(kind: type) -> tuple[str, ...]:
    names = [name for name in dir(kind) if not name.startswith("_") or name in OPERATORS]
    if kind.__name__ in ("Random", "Generator", "RandomState"):
        return tuple(name for name in names if name in DRAWING)
    members = getattr(kind, "__members__", ())  # of an enumeration: those of a member are not in each version
    return tuple(name for name in names if name not in DENIED and name not in members)


def kind_of(value: Any) -> str | None:
    """The kind of argument that a value is, small enough to go on with; None: no kind."""
    match value:
        case None:
            return "none"
        case bool():
            return "bool"
        case int() | np.integer():
            return "int" if -9 <= value <= 20 else "big" if abs(value) < 10**60 else None
        case float():
            return "float"
        case str():
            return "text" if len(value) <= 40 else None
        case bytes():
            return "bytes" if len(value) <= 40 else None
        case list() if len(value) <= 12:
            return _kind_of_list([kind_of(item) for item in value])
        case np.ndarray() if value.size <= 40 and value.dtype.kind in "if" and value.ndim in (1, 2):
            return "array" if value.ndim == 1 else "matrix"
        case dict() if len(value) <= 5 and all(isinstance(name, str) for name in value):
            return "object" if set(map(kind_of, value.values())) <= {"int"} else None
        case tuple() if type(value) is tuple and len(value) <= 12:
            return "tuple" if set(map(kind_of, value)) <= {"int"} else None
        case range() if abs(value.stop - value.start) <= 20:
            return "range"
    return {"Fraction": "fraction", "Decimal": "decimal", "date": "date", "timedelta": "timedelta"}.get(
        type(value).__name__
    )


def _kind_of_list(kinds: Sequence[str | None]) -> str | None:
    lists = {
        "int": "ints", "float": "floats", "text": "texts", "fraction": "fractions", "decimal": "decimals", "ints": "rows",
        "bytes": "blobs", "array": "arrays",
    }  # fmt: skip
    return lists.get(kinds[0] or "") if kinds and len(set(kinds)) == 1 else "ints" if not kinds else None
