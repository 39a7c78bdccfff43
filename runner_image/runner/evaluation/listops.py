"""List operations: a function over a list of items, protocol section 4."""

from __future__ import annotations

from ..refusal import InvalidRequest, Refusal
from .arguments import check_members
from .namepath import function, made
from .results import bounded, drained_of_asynchronous

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Iterator

    from ..place import Place
    from .arguments import Reader, Step
    from .tuples import Tuple

    Function = Callable[..., Any]

_MEMBERS = frozenset({"op", "function", "list", "initial", "parallel"})
# Those that are of use without a function: then the items themselves count.
_FUNCTION_OPTIONAL = frozenset({"sort", "any", "all"})
# Those of which each item is worked on without the others.
_SPREADABLE = frozenset({"map", "filter", "starmap", "flatmap"})
_NOTHING = object()


class ListOperation:
    """One operation, read and checked."""

    def __init__(self, members: Any, field: str, reader: Reader) -> None:
        """Raises InvalidRequest, ReferenceNotFound."""
        if type(members) is not dict:
            msg = "a list operation has to be an object"
            raise InvalidRequest(msg, field)
        check_members(members, _MEMBERS, field + ".")
        self._field = field
        self._op = _operation(members, field)
        self._function = reader.steps(members["function"], field + ".function") if "function" in members else None
        self._initial = reader.value(members.get("initial", _NOTHING), field + ".initial")
        self._own_items = "list" in members
        self._items: Any = ()
        self._constructor: list[Step] | None = None
        if self._own_items:
            self._read_items(members["list"], field + ".list", reader)

    def _read_items(self, items: Any, field: str, reader: Reader) -> None:
        if type(items) is list and items and type(items[-1]) is list:
            self._constructor = _constructor(reader.steps, items[-1], f"{field}[{len(items) - 1}]")
            items = items[:-1]
            _check_one_type(items, field)
            self._items = [reader.value(item, f"{field}[{i}]") for i, item in enumerate(items)]
            return
        self._items = reader.value(items, field)
        if type(items) is not list and self._items is items:
            msg = "'list' has to be a list"
            raise InvalidRequest(msg, field)

    def check_given(self, count: int) -> None:
        """Raises InvalidRequest: with so many values given to it, or none, it is not clear which is its list."""
        if self._own_items and count:
            msg = "its list is what it is given by the stage before it, or by 'args'"
            raise InvalidRequest(msg, self._field + ".list")
        if not self._own_items and count != 1:
            msg = "its list has to be here, or given to it as the only argument"
            raise InvalidRequest(msg, self._field + ".list")

    def run(self, given: list[Any] | Tuple, *, place: Place, max_items: int, after_each: Callable[[], None]) -> Any:
        """The result. The list is the only value of `given`, unless the operation has one of its own.

        While an item is worked on, its number stands in `place`; `after_each` is called once it was.
        Raises: TooManyItems: of an iterator. Refusal, and whatever user code raises.
        """
        values = drained_of_asynchronous(self._items if self._own_items else made(given)[0], max_items)
        make = None if self._constructor is None else _constructor(function, self._constructor)
        apply = None if self._function is None else function(self._function)
        items = _numbered(bounded(values, max_items), make, place, after_each)
        result = _reduced(apply, items, self._initial) if self._op == "reduce" else _OPERATIONS[self._op](apply, items)
        place.past_items()
        return result


def _operation(members: dict[str, Any], field: str) -> str:
    op = members.get("op")
    if type(op) is not str or (op not in _OPERATIONS and op != "reduce"):
        msg = f"'op' has to be one of {', '.join(sorted([*_OPERATIONS, 'reduce']))}"
        raise InvalidRequest(msg, field + ".op")
    if "function" not in members and op not in _FUNCTION_OPTIONAL:
        msg = f"{op!r} needs a 'function'"
        raise InvalidRequest(msg, field + ".function")
    if "initial" in members and op != "reduce":
        msg = "only 'reduce' takes an 'initial'"
        raise InvalidRequest(msg, field + ".initial")
    if "parallel" in members:
        parallel = members["parallel"]
        if op not in _SPREADABLE or type(parallel) is not int or parallel < 1:
            msg = f"'parallel' has to be a whole number from 1 on, of {', '.join(sorted(_SPREADABLE))}"
            raise InvalidRequest(msg, field + ".parallel")
    return op


def _constructor(made: Callable[..., Any], *args: Any) -> Any:
    """`made` of `args`. Whoever did not mean the last item to be a constructor is told that it is one."""
    try:
        return made(*args)
    except Refusal as refusal:
        refusal.detail = f"an array in last position of 'list' is the constructor of the items: {refusal.detail}"
        raise


def _check_one_type(items: list[Any], field: str) -> None:
    kinds = [float if type(item) is int else type(item) for item in items]
    for i, kind in enumerate(kinds):
        if kind is not kinds[0]:
            msg = "the items before a constructor have to be of one JSON type"
            raise InvalidRequest(msg, f"{field}[{i}]")


def _numbered(
    values: Iterable[Any], make: Function | None, place: Place, after_each: Callable[[], None]
) -> Iterator[Any]:
    for number, value in enumerate(values):
        place.at_item(number)
        yield value if make is None else make(value)
        after_each()
        place.past_items()


def _reduced(apply: Any, items: Iterator[Any], initial: Any) -> Any:
    result = initial
    for item in items:
        result = item if result is _NOTHING else apply(result, item)
    if result is _NOTHING:
        msg = "reduce of an empty list without an initial value"
        raise TypeError(msg)
    return result


def _flatmapped(apply: Any, items: Iterator[Any]) -> list[Any]:
    return [part for item in items for part in apply(item)]


def _sorted(apply: Any, items: Iterator[Any]) -> list[Any]:
    if apply is None:
        return sorted(items)
    keyed = [(item, apply(item)) for item in items]
    return [item for item, _ in sorted(keyed, key=lambda pair: pair[1])]


def _decided(apply: Any, items: Iterator[Any], verdict: bool) -> bool:
    """`verdict` from the first item on that comes to it; its opposite if none does."""
    for item in items:
        if bool(item if apply is None else apply(item)) is verdict:
            return verdict
    return not verdict


_OPERATIONS: dict[str, Callable[[Any, Iterator[Any]], Any]] = {
    "map": lambda apply, items: [apply(item) for item in items],
    "filter": lambda apply, items: [item for item in items if apply(item)],
    # (A tuple of its own, so that an item that is none is not said to be an argument of ours.)
    "starmap": lambda apply, items: [apply(*(*item,)) for item in items],
    "flatmap": _flatmapped,
    "sort": _sorted,
    "any": lambda apply, items: _decided(apply, items, True),
    "all": lambda apply, items: _decided(apply, items, False),
}
