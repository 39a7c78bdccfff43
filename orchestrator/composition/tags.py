"""Objects that stand for something else in arguments and values (`evaluation/tags.py` of the runner), found past all the rest."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from runner.evaluation.tags import KEPT

# Tag, and the members that an object with it has: these, or those.
_MEMBERS: Mapping[str, Collection[frozenset[str]]] = {
    "$ref": (frozenset({"$ref"}), KEPT),
    "$file": (frozenset({"$file"}),),
    "$array": (frozenset({"$array", "dtype", "shape"}),),
    "$image": (frozenset({"$image", "type"}),),
}
# Those whose text is the name of a file that goes beside the JSON.
FILES = ("$file", "$array", "$image")
REFERENCE = "$ref"


def tagged(value: Any, tags: Collection[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects within `value` that hold a text under one of `tags`, each with that tag. Not those that
    `{"$object": …}` says to be plain data."""
    left = [value]
    while left:
        found = left.pop()
        if type(found) is list:
            left += found
        elif type(found) is dict:
            left += plain(found).values()
            if (tag := tag_among(tags, found)) is not None:
                yield found, tag


def tag_among(tags: Collection[str], members: dict[str, Any]) -> str | None:
    """The one of `tags` that an object is, if any."""
    return next((tag for tag in tags if members.keys() in _MEMBERS[tag] and type(members[tag]) is str), None)


def plain(members: dict[str, Any]) -> dict[str, Any]:
    """Whose values are to be looked at: of an escaped object, its members, which are no tags."""
    escaped = members.get("$object") if len(members) == 1 else None
    return escaped if type(escaped) is dict else members
