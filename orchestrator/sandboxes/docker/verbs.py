"""What is asked of the engine: blocking requests, for `Engine.run`. They raise docker's own errors."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import docker.errors
import requests
from docker import APIClient

NOBODY = "65534:65534"
_PAUSE_AGAIN_S = (0.1, 0.3, 1.0)
_NOT_FOUND = 404
_CONFLICT = 409
_INTERNAL = 500


class Attachment:
    """What a container writes, from before its start. Closing it may come from another thread than reading."""

    def __init__(self, client: APIClient, container: str) -> None:
        self._stream = client.attach(container, stream=True, demux=True)
        self._response: requests.Response = self._stream._response  # type: ignore[attr-defined]  # the SDK never closes it
        self._reading = threading.Lock()

    def read(self) -> tuple[bytes, bytes] | None:
        """The next of stdout and stderr; None at the end, and once it is closed. Blocks."""
        with self._reading:
            chunk = None if self._response.raw.closed else next(self._stream, None)
        return None if chunk is None else (chunk[0] or b"", chunk[1] or b"")

    def close(self) -> None:
        """Wakes a reader and lets it end before the socket goes. May be called twice."""
        with suppress(OSError):  # the other side was first
            self._stream.close()
        with self._reading:
            self._response.close()


def inspect_image(client: APIClient, ref: str) -> dict[str, Any]:
    """What the engine knows of an image. Raises docker's `ImageNotFound`."""
    found: dict[str, Any] = client.inspect_image(ref)  # type: ignore[no-untyped-call]
    return found


def create_container(client: APIClient, name: str, body: dict[str, Any]) -> str:
    """The id of a new container, not started yet. Raises docker's `ImageNotFound`."""
    return str(client.create_container_from_config(body, name)["Id"])  # type: ignore[no-untyped-call]


def start_container(client: APIClient, name: str, body: dict[str, Any]) -> str:
    """Create and start; the id. Raises docker's `ImageNotFound`."""
    container = create_container(client, name, body)
    client.start(container)
    return container


def stop_container(client: APIClient, name: str, grace_s: float) -> None:
    """Ask it to end, and kill it `grace_s` seconds later; already ended, or gone, is success."""
    with gone_is_success():
        client.stop(name, timeout=math.ceil(grace_s))


def pause_container(client: APIClient, name: str) -> None:
    """Let none of its processes run; paused already is success.

    Runtimes give up soon where a process is slow to stand still, on a busy machine say, and leave it to the caller to try
    again (https://github.com/opencontainers/runc/pull/4388).
    """
    for wait_s in _PAUSE_AGAIN_S:
        try:
            return _pause(client, name)
        except docker.errors.APIError as exc:
            if exc.status_code != _INTERNAL:
                raise
        time.sleep(wait_s)
    return _pause(client, name)


def _pause(client: APIClient, name: str) -> None:
    with _settled(client, name, paused=True):
        client.pause(name)


def unpause_container(client: APIClient, name: str) -> None:
    """Let its processes run again; not paused is success."""
    with _settled(client, name, paused=False):
        client.unpause(name)


@contextmanager
def _settled(client: APIClient, name: str, *, paused: bool) -> Iterator[None]:
    """Engines refuse, each with a status of its own, what is the case already."""
    try:
        yield
    except docker.errors.APIError:
        state = client.inspect_container(name)["State"]
        if not state["Running"] or state["Paused"] is not paused:
            raise


def commit_container(client: APIClient, name: str, repository: str, tag: str, labels: dict[str, str]) -> None:
    """Make an image of an ended container: its root and these labels, no command. It gets its name last."""
    client.commit(
        name,
        repository=repository,
        tag=tag,
        pause=False,
        changes=["CMD []", "ENTRYPOINT []", f"USER {NOBODY}"],
        conf={"Labels": labels},
    )


def remove_container(client: APIClient, name: str) -> None:
    """Kill and remove it; already gone, or already being removed, is success."""
    with gone_is_success():
        client.remove_container(name, force=True, v=True)


@contextmanager
def gone_is_success() -> Iterator[None]:
    """For ending and removing: what is gone already, or on its way, needs nothing more."""
    try:
        yield
    except docker.errors.APIError as exc:
        if exc.status_code not in (_NOT_FOUND, _CONFLICT):
            raise
