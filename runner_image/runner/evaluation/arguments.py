"""Reads what a request says of a call: known members, right types; tags become what they stand for."""

from __future__ import annotations

from ..headroom import Headroom
from ..refusal import InvalidRequest
from .strict import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Collection

    from .references import References
    from .tags import Tags
    from .tuples import Tuple

# `sessionid` and `timeout` are the orchestrator's, which leaves them where they are.
_REQUEST = frozenset({"namepath", "args", "kwargs", "tuple", "keep", "drop", "sessionid", "timeout"})
_ELEMENT = frozenset({"name", "moduleName", "ref", "args", "kwargs", "tuple"})
# One of these says what an element is.
_NAMES = ("name", "moduleName", "ref")
_NOTHING = object()


class Step:
    """One element of a namepath. `positional` and `keywords` are None where it is a reference, not a call.

    `target` is the kept object that it names, and else `NO_TARGET`.
    """

    __slots__ = ("field", "is_module", "keywords", "name", "positional", "target")

    NO_TARGET = _NOTHING

    def __init__(
        self,
        name: str,
        field: str,
        positional: list[Any] | Tuple | None = None,
        keywords: dict[str, Any] | None = None,
        is_module: bool = False,
        target: Any = _NOTHING,
    ) -> None:
        self.name = name
        self.field = field
        self.positional = positional
        self.keywords = keywords
        self.is_module = is_module
        self.target = target


class Request:
    """What to call and with what. Without steps there is nothing to call, only something to drop."""

    __slots__ = ("drop", "fields", "keep", "keywords", "positional", "steps")

    def __init__(
        self,
        steps: list[Step],
        positional: list[Any] | Tuple,
        keywords: dict[str, Any],
        keep: bool = False,
        drop: list[str] | None = None,
        fields: tuple[str, str] = ("args", "kwargs"),
    ) -> None:
        """`fields`: where positional and keyword arguments stand in the request."""
        self.fields = fields
        self.steps = steps
        self.positional = positional
        self.keywords = keywords
        self.keep = keep
        self.drop = drop


def parse(body: bytes, reader: Reader) -> Request:
    """The request that a CALL carries. Raises InvalidRequest, ReferenceNotFound; their field names the member."""
    members = load(body)
    check_members(members, _REQUEST, "")
    positional, keywords = reader.arguments(members, "")
    keep, drop = reader.kept(members) if "keep" in members or "drop" in members else (False, None)
    steps: list[Step] = []
    if "namepath" in members:
        steps = reader.steps(members["namepath"], "namepath")
    elif drop is None or keep or positional is not None:
        msg = "the member 'namepath' is missing"
        raise InvalidRequest(msg, "namepath")
    reader.finish()
    return Request(steps, positional or [], keywords or {}, keep, drop, argument_fields(members))


def argument_fields(members: dict[str, Any]) -> tuple[str, str]:
    """The members that hold positional and keyword arguments."""
    by_name = "args" if type(members.get("args")) is dict and not members.get("kwargs") else "kwargs"
    return "tuple" if "tuple" in members else "args", by_name


class Reader:
    """Reads the parts of one request. Whatever it finds wrong is an InvalidRequest that names the member."""

    __slots__ = ("_references", "_tags")

    def __init__(self, references: Callable[[], References], tags: Tags | None = None) -> None:
        """Without `tags` there are none in the request, and no files."""
        self._references = references
        self._tags = tags

    def finish(self) -> None:
        """Raises InvalidRequest: a file was sent that nothing has named so far."""
        if self._tags is not None:
            self._tags.check_all_named()

    def value(self, value: Any, field: str) -> Any:
        """A value with all its tags replaced. Raises ReferenceNotFound."""
        if self._tags is None:
            return value
        with Headroom():
            return self._tags.resolve(value, field)

    def kept(self, members: dict[str, Any]) -> tuple[bool, list[str] | None]:
        """`keep` and `drop`; the latter is None where it is not there. Raises ReferenceNotFound."""
        keep, drop = members.get("keep", False), members.get("drop")
        if type(keep) is not bool:
            msg = "'keep' has to be true or false"
            raise InvalidRequest(msg, "keep")
        if "drop" in members:
            if type(drop) is not list:
                msg = "'drop' has to be a list of names"
                raise InvalidRequest(msg, "drop")
            for i, name in enumerate(drop):
                self._reference(name, f"drop[{i}]")
        return keep, drop

    def arguments(self, members: dict[str, Any], prefix: str) -> tuple[list[Any] | Tuple | None, dict[str, Any] | None]:
        """Positional and keyword arguments; both None where there is none of `args`, `kwargs` and `tuple`."""
        args, keywords = members.get("args", []), members.get("kwargs", {})
        if "kwargs" not in members and "tuple" not in members:
            if "args" not in members:
                return None, None
            if type(args) is list and self._tags is None:  # as most calls are
                return args, keywords
        if type(keywords) is not dict:
            msg = "'kwargs' has to be an object"
            raise InvalidRequest(msg, prefix + "kwargs")
        keywords = self._each(keywords, prefix + "kwargs")
        if "tuple" in members:
            return self._tuple(members, prefix), keywords
        if type(args) is list:
            return self._each(args, prefix + "args"), keywords
        if type(args) is not dict:
            msg = "'args' has to be a list (positional arguments) or an object (keyword arguments)"
            raise InvalidRequest(msg, prefix + "args")
        twice = [name for name in args if name in keywords]
        if twice:
            msg = f"the argument {twice[0][:100]!r} stands in both 'args' and 'kwargs'"
            raise InvalidRequest(msg, prefix + "kwargs")
        return [], {**self._each(args, prefix + "args"), **keywords}

    def _each(self, values: Any, field: str) -> Any:
        """A list or object of arguments with the tags in each of them replaced; it is itself no tag."""
        if self._tags is None:
            return values
        with Headroom():
            return self._tags.each(values, field)

    def _tuple(self, members: dict[str, Any], prefix: str) -> Tuple:
        if "args" in members:
            msg = "'args' and 'tuple' are two ways to say the same: only one of them may be there"
            raise InvalidRequest(msg, prefix + "tuple")
        from .tuples import Tuple

        return Tuple(members["tuple"], prefix + "tuple", self)

    def steps(self, namepath: Any, field: str) -> list[Step]:
        """At least one. Raises ReferenceNotFound."""
        if type(namepath) is str:
            return [Step(name, f"{field}[{i}]") for i, name in enumerate(names(namepath, field))]
        if type(namepath) is not list or not namepath:
            msg = "a namepath has to be a dotted string or a list with at least one element"
            raise InvalidRequest(msg, field)
        steps: list[Step] = []
        for i, element in enumerate(namepath):
            inner = f"{field}[{i}]"
            if type(element) is str:
                steps += [Step(name, inner) for name in names(element, inner)]
            elif type(element) is dict:
                steps += self._element(element, inner, first=not i)
            else:
                msg = "an element of a namepath has to be a string or an object"
                raise InvalidRequest(msg, inner)
        return steps

    def _element(self, element: dict[str, Any], field: str, *, first: bool) -> list[Step]:
        check_members(element, _ELEMENT, field + ".")
        named = [member for member in _NAMES if member in element]
        if len(named) != 1:
            msg = "an element of a namepath has to have one of 'name', 'moduleName' and 'ref'"
            raise InvalidRequest(msg, field)
        member = named[0]
        positional, keywords = self.arguments(element, field + ".")
        if member == "ref":
            target = self._kept_object(element["ref"], field + ".ref", first=first)
            return [Step(element["ref"], field, positional, keywords, target=target)]
        parts = names(element[member], f"{field}.{member}")
        if member == "moduleName":
            return [Step(".".join(parts), field, positional, keywords, is_module=True)]
        return [*(Step(name, field) for name in parts[:-1]), Step(parts[-1], field, positional, keywords)]

    def _kept_object(self, name: Any, field: str, *, first: bool) -> Any:
        if not first:
            msg = "only the first element of a namepath may be a 'ref'"
            raise InvalidRequest(msg, field)
        return self._reference(name, field)

    def _reference(self, name: Any, field: str) -> Any:
        if type(name) is not str:
            msg = "the name of a kept object has to be a string"
            raise InvalidRequest(msg, field)
        return self._references().get(name, field)


def may_hold_tags(body: bytes) -> bool:
    return b"$" in body or (b"\\" in body and b"\\u0024" in body)


def check_members(members: dict[str, Any], known: Collection[str], prefix: str) -> None:
    for name in members:
        if name not in known:
            msg = f"the member {name[:100]!r} is not known; known are {', '.join(sorted(known))}"
            raise InvalidRequest(msg, (prefix + name)[:100])


def names(dotted: Any, field: str) -> list[str]:
    """The names in a dotted string; at least one."""
    if type(dotted) is not str:
        msg = "a name has to be a string"
        raise InvalidRequest(msg, field)
    parts = dotted.split(".")
    if not all(parts):
        msg = f"{dotted[:100]!r} is not a name, nor names with dots between them"
        raise InvalidRequest(msg, field)
    return parts
