"""What the two processes say to each other: fifteen verbs, and their replies. One connection carries one verb.

The verbs are all there is: no image reference, path, container, label, mount or option of the engine can be written in
them. What a pattern or a bound here does not let pass gets no further than the decoder.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from orchestrator.sandboxes.backend import BuildEvent, Image, Interpreter, SandboxStatus

MAX_VERB_BYTES = 2 * 1024 * 1024  # the files of 2,000 packages
MAX_REPLY_BYTES = 16 * 1024 * 1024  # a lock that a builder printed; thousands of images
MAX_FILES = 2000
MAX_REQUIREMENTS = 1000

# \A and \Z: the patterns are searched for, and "$" would let a newline follow.
SandboxId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
InstanceId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
OwnerId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{0,16}\Z")]  # a digest: for turns, and to nothing else
SessionId = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
EnvironmentId = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9.-]{0,99}\Z")]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Filename = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}\.(whl|tar\.gz|zip)\Z")]
PackageName = Annotated[str, Meta(pattern=r"\A[a-z0-9]([a-z0-9-]{0,250}[a-z0-9])?\Z")]
PackageVersion = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9.!+_-]{0,250}\Z")]
Requirement = Annotated[str, Meta(min_length=1, max_length=2000)]
Positive = Annotated[int, Meta(ge=1, le=2**31)]
Seconds = Annotated[float, Meta(ge=0, le=1e6)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Verb(_Part, frozen=True, tag_field="verb"):
    pass


class _Reply(_Part, frozen=True, tag_field="reply"):
    pass


class Labels(_Part, frozen=True):
    """The two that sessions use: which session it is for, and which server (`instance.py`) asked for it."""

    session: SessionId | None = None
    instance: InstanceId | None = None


class File(_Part, frozen=True):
    """One file of the wheel store, by its content; `name` and `version` are its package's."""

    filename: Filename
    sha256: Sha256
    name: PackageName
    version: PackageVersion


# --- verbs ---


class Hello(_Verb, frozen=True, tag="hello"):
    pass


class Start(_Verb, frozen=True, tag="start"):
    environment_id: EnvironmentId
    memory_mb: Positive
    cpus: Seconds  # processors, bounded like a time
    pids: Positive
    disk_mb: Positive
    network: Literal["none", "egress"]
    labels: Labels
    owner: OwnerId = ""


class OpenLink(_Verb, frozen=True, tag="open_link"):
    sandbox_id: SandboxId


class Inspect(_Verb, frozen=True, tag="inspect"):
    sandbox_id: SandboxId


class Freeze(_Verb, frozen=True, tag="freeze"):
    sandbox_id: SandboxId


class Thaw(_Verb, frozen=True, tag="thaw"):
    sandbox_id: SandboxId


class Stop(_Verb, frozen=True, tag="stop"):
    sandbox_id: SandboxId
    grace_s: Seconds


class Owned(_Verb, frozen=True, tag="owned"):
    labels: Labels


class Prepare(_Verb, frozen=True, tag="prepare"):
    pass


class Offered(_Verb, frozen=True, tag="offered"):
    pass


class Lock(_Verb, frozen=True, tag="lock"):
    interpreter: Sha256  # its digest
    requirements: Annotated[tuple[Requirement, ...], Meta(max_length=MAX_REQUIREMENTS)]
    timeout_s: Seconds


class Build(_Verb, frozen=True, tag="build"):
    environment_id: EnvironmentId  # must be the one that follows from the rest
    interpreter: Sha256
    files: Annotated[tuple[File, ...], Meta(max_length=MAX_FILES)]
    timeout_s: Seconds


class Find(_Verb, frozen=True, tag="find"):
    environment_id: EnvironmentId


class ListImages(_Verb, frozen=True, tag="list_images"):
    pass


class Remove(_Verb, frozen=True, tag="remove"):
    environment_id: EnvironmentId


Verb = (
    Hello
    | Start
    | OpenLink
    | Inspect
    | Freeze
    | Thaw
    | Stop
    | Owned
    | Prepare
    | Offered
    | Lock
    | Build
    | Find
    | ListImages
    | Remove
)


# --- replies ---


class Welcome(_Reply, frozen=True, tag="welcome"):
    backend: str


class Made(_Reply, frozen=True, tag="made"):
    """A sandbox, without what its backend knows it by."""

    id: str
    environment_id: str
    labels: Labels


class Linked(_Reply, frozen=True, tag="linked"):
    """The link's listening socket comes with it."""

    peer_uid: int | None
    reopened: bool


class Status(_Reply, frozen=True, tag="status"):
    status: SandboxStatus


class Frozen(_Reply, frozen=True, tag="frozen"):
    frozen: bool


class Sandboxes(_Reply, frozen=True, tag="sandboxes"):
    sandboxes: tuple[Made, ...]


class Interpreters(_Reply, frozen=True, tag="interpreters"):
    interpreters: tuple[Interpreter, ...]


class Locked(_Reply, frozen=True, tag="locked"):
    text: str


class Progress(_Reply, frozen=True, tag="progress"):
    """Any number of them come before the reply to `Build`."""

    event: BuildEvent


class Found(_Reply, frozen=True, tag="found"):
    image: Image | None


class Images(_Reply, frozen=True, tag="images"):
    images: tuple[Image, ...]


class Removed(_Reply, frozen=True, tag="removed"):
    removed: bool


class Done(_Reply, frozen=True, tag="done"):
    pass


class Failed(_Reply, frozen=True, tag="failed"):
    """An error of `errors.py` by its code; `faults.py` turns one into the other."""

    code: str
    detail: str
    field: str | None = None
    log_tail: str = ""
    after_s: float = 0.0


Reply = (
    Welcome
    | Made
    | Linked
    | Status
    | Frozen
    | Sandboxes
    | Interpreters
    | Locked
    | Progress
    | Found
    | Images
    | Removed
    | Done
    | Failed
)

encode = msgspec.msgpack.Encoder().encode
_verbs: msgspec.msgpack.Decoder[Verb] = msgspec.msgpack.Decoder(Verb)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


class Malformed(Exception):
    """Not a message of the other side's kind; the text says what is wrong, and quotes nothing."""


def read_verb(body: bytes) -> Verb:
    """Raises `Malformed`."""
    try:
        return _verbs.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:  # ValueError: text that is no UTF-8
        raise Malformed(str(exc)) from exc


def read_reply(body: bytes) -> Reply:
    """Raises `Malformed`."""
    try:
        return _replies.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise Malformed(str(exc)) from exc
