"""Runner images: a base, with kodou's runner and builder in it. One for each base that settings name."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.errors import BuildError, ImageNotFound
from docker.utils import parse_repository_tag

from orchestrator.sandboxes import library
from orchestrator.sandboxes.docker.options import KIND, RUNNER_IMAGE, UNSET
from orchestrator.sandboxes.docker.verbs import gone_is_success, inspect_image
from orchestrator.sandboxes.labels import INSTANCE_LABEL
from orchestrator.sandboxes.layout import VARIABLES

REPOSITORY = "kodou/runner"
BASE = "io.kodou.base"
DIGEST = "io.kodou.digest"
DOCKERFILE = "Dockerfile.runner"
TAG_DIGITS = 12  # of the digest, in the image's tag
# How a digest comes about; raised when that changes, or when what an environment image holds does.
_RECIPE = "1"


@dataclass(frozen=True, slots=True)
class RunnerImage:
    ref: str
    digest: str  # sha256, hex: over the base, our sources and the added packages
    base_digest: str  # the base's own: "sha256:" and 64 hex
    runner: str


def ensure(client: APIClient, base: str, packages: tuple[str, ...], *, instance: str) -> RunnerImage:
    """The runner image of a base, built unless it is there. Blocks; pulls the base if the engine has none of that name.
    Raises docker's errors, and `BuildError` if the engine could not build it."""
    config = _base(client, base)
    sources = _sources()
    digest = _digest(config["Id"], sources, packages)
    image = RunnerImage(
        f"{REPOSITORY}:{digest[:TAG_DIGITS]}", digest, config["Id"], library.runner_version(library.sources_digest())
    )
    try:
        if inspect_image(client, image.ref)["Config"]["Labels"].get(DIGEST) == digest:
            return image
    except ImageNotFound:
        pass
    inherited = [entry.partition("=")[0] for entry in config["Config"].get("Env") or ()]
    output = client.build(
        fileobj=_context(sources),
        custom_context=True,
        dockerfile=DOCKERFILE,
        tag=image.ref,
        buildargs={"BASE": base, "PACKAGES": " ".join(packages)},
        labels={
            KIND: RUNNER_IMAGE,
            INSTANCE_LABEL: instance,
            BASE: base,
            DIGEST: digest,
            UNSET: ",".join(name for name in inherited if name not in VARIABLES),
        },
        network_mode="bridge" if packages else "none",
        rm=True,
        forcerm=True,
        decode=True,
    )
    for event in output:
        if "error" in event:
            raise BuildError(event["error"], iter(()))
    return image


def remove_superseded(client: APIClient, base: str, current: RunnerImage, *, instance: str) -> None:
    """Remove the names of this server's earlier runner images of a base; what was built on them stays. Blocks."""
    wanted = {"label": [f"{KIND}={RUNNER_IMAGE}", f"{INSTANCE_LABEL}={instance}", f"{BASE}={base}"]}
    for image in client.images(REPOSITORY, filters=wanted):
        for ref in image["RepoTags"] or ():
            if ref != current.ref:
                with gone_is_success():
                    client.remove_image(ref)


def _base(client: APIClient, base: str) -> dict[str, Any]:
    try:
        return inspect_image(client, base)
    except ImageNotFound:
        repository, tag = parse_repository_tag(base)
        for event in client.pull(repository, tag=tag or "latest", stream=True, decode=True):
            if "error" in event:
                raise BuildError(event["error"], iter(())) from None
        return inspect_image(client, base)


def _sources() -> dict[str, bytes]:
    """The files of a build's context, by their path in it."""
    found = {DOCKERFILE: _dockerfile()}
    found.update((f"runner_image/{path}", content) for path, content in library.sources().items())
    return found


def _dockerfile() -> bytes:
    shipped = files("orchestrator.sandboxes") / DOCKERFILE  # in the wheel
    if shipped.is_file():
        return shipped.read_bytes()
    return (Path(__file__).parents[3] / DOCKERFILE).read_bytes()  # in the repository


def _digest(base_id: str, sources: Mapping[str, bytes], packages: tuple[str, ...]) -> str:
    hashes = {path: hashlib.sha256(data).hexdigest() for path, data in sources.items()}
    parts = {"recipe": _RECIPE, "base": base_id, "sources": hashes, "packages": sorted(packages)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _context(sources: Mapping[str, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in sorted(sources.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(data))
    buffer.seek(0)
    return buffer
