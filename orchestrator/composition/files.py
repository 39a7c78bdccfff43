"""Files that came with a composition, and those that it names. Pure.

A runner refuses what is wrong in its own part. When there are several, it would do so after others have run.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.composition.parts import Part, Place, Spread
from orchestrator.composition.tags import FILES, plain, tag_among, tagged
from orchestrator.errors import InvalidRequest
from orchestrator.sandboxes.work import File

# Those that name a file for sure: the text of an image may be the image.
_NAMING = ("$file", "$array")

# Where something stands: its own step, then those before. Names may be long, so only what is told is written out.
_Steps = tuple[str, "_Steps | None"]


def check_all_named(request: Mapping[str, Any], files: Collection[File]) -> None:
    """Raises: InvalidRequest: a file that no part of the composition names."""
    if not files:
        return
    unnamed = {file.name for file in files} - {found[tag] for found, tag in tagged(request, FILES)}
    if unnamed:
        name = min(unnamed)
        msg = f"the part {name!r} was sent, and nothing in the request names it"
        raise InvalidRequest(msg, field=name)


def check_all_sent(parts: Sequence[Part], files: Collection[File]) -> None:
    """Raises: InvalidRequest: another part than the first names a file that is not there; in the words of its runner."""
    sent = {file.name for file in files}
    for part in parts[1:]:
        for place, field, value in _stages(part):
            if all(found[tag] in sent for found, tag in tagged(value, _NAMING)):
                continue  # without its fields, as nearly always
            for name, steps in _names(value, field):
                if name not in sent:
                    msg = f"no part {name[:100]!r} was sent with the request"
                    raise InvalidRequest(msg, field=_written(steps), place=place.members())


def _stages(part: Part) -> Iterator[tuple[Place, str, Any]]:
    """Each with its place and its field."""
    if isinstance(part, Spread):
        items = [] if part.items is None else [*part.items, part.constructor]
        yield part.place, part.field, {**part.operation, "list": items}
        return
    for number, stage in enumerate(part.stages):
        place = replace(part.place, stage=number + (part.place.stage or 0))
        yield place, place.field, stage


def _names(value: Any, field: str) -> Iterator[tuple[str, _Steps]]:
    """The names of files within `value`, in their order, each with the field of the object that has it."""
    left: list[tuple[Any, _Steps]] = [(value, (field, None))]
    while left:
        found, steps = left.pop()
        inner: list[tuple[Any, _Steps]] = []
        if type(found) is list:
            inner = [(item, (f"[{number}]", steps)) for number, item in enumerate(found)]
            if steps[0].endswith(".tuple"):  # in which {"$file": "str"} is a text and its type
                inner = [(item, own) for item, own in inner if type(item) is dict and not tag_among(_NAMING, item)]
        elif type(found) is dict:
            if (tag := tag_among(_NAMING, found)) is not None:
                yield found[tag], steps
                continue
            inner = [(item, (f".{name}", steps)) for name, item in plain(found).items()]
        left += reversed(inner)


def _written(steps: _Steps | None) -> str:
    written: list[str] = []
    while steps is not None:
        step, steps = steps
        written.append(step)
    return "".join(reversed(written))
