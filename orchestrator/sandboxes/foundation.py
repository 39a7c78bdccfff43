"""Which built environment a new one starts from: one whose packages it all holds too, so that only the rest is installed.

It holds nothing that was not asked for: who gets the new one trusts no other packages than those of their own set. Only
wheels count: what a source build makes may differ from one time to the next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.sandboxes.backend import BuildOrder, Image
from orchestrator.sandboxes.labels import INTERPRETER_LABEL

# Labels of images that others may start from.
FILES = "io.kodou.files"  # SHA-256 of each package file that was installed
COUNT = "io.kodou.count"  # files and directories on disk
HEIGHT = "io.kodou.height"  # how many environments, this one too, are built one upon another
MAX_HEIGHT = 8  # each is a layer, of which an overlay file system takes some hundred, and gets slower


@dataclass(frozen=True, slots=True)
class Foundation:
    image: Image
    files: frozenset[str]  # digests
    count: int
    height: int


def found(order: BuildOrder, images: Sequence[Image]) -> Foundation | None:
    """Of these, the one that leaves least to install. None: there is none."""
    if not _shares(order):
        return None
    sizes = {digest: path.stat().st_size for digest, path in zip(order.hashes, order.files, strict=True)}
    fit = [each for each in map(_read, images) if each is not None and _fits(each, order)]
    return max(
        fit,
        key=lambda each: (sum(sizes[digest] for digest in each.files), each.image.environment_id),
        default=None,
    )


def missing(order: BuildOrder, foundation: Foundation | None) -> Sequence[Path]:
    """The order's files that it does not hold."""
    if foundation is None:
        return order.files
    pairs = zip(order.hashes, order.files, strict=True)
    return [path for digest, path in pairs if digest not in foundation.files]


def sharing(order: BuildOrder, foundation: Foundation | None, *, count: int) -> Mapping[str, str]:
    """Labels that let others start from the order's image. `count`: all that is on disk of it."""
    if not _shares(order):
        return {}
    height = 1 if foundation is None else foundation.height + 1
    return {
        INTERPRETER_LABEL: order.interpreter.digest,
        FILES: " ".join(order.hashes),
        COUNT: str(count),
        HEIGHT: str(height),
    }


def _shares(order: BuildOrder) -> bool:
    return not order.from_source and len(order.hashes) == len(order.files)


def _read(image: Image) -> Foundation | None:
    numbers = [image.labels.get(name, "") for name in (COUNT, HEIGHT)]
    if FILES not in image.labels or not all(number.isdecimal() for number in numbers):
        return None
    return Foundation(image, frozenset(image.labels[FILES].split()), int(numbers[0]), int(numbers[1]))


def _fits(foundation: Foundation, order: BuildOrder) -> bool:
    return (
        foundation.image.labels.get(INTERPRETER_LABEL) == order.interpreter.digest
        and foundation.height < MAX_HEIGHT
        and foundation.files <= set(order.hashes)
        and foundation.image.environment_id != order.environment_id
    )
