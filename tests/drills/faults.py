"""What drills do to a server and its sandboxes from outside, and how they see it."""

import base64
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.drills.at_rest import INSTANCE, engine, instance_of
from tests.drills.crowds import until
from tests.servers import Server, Session

LONG_S = 240  # a call that only a fault or a timeout ends
# Within which a drill wants an answer that should come at once: far below what a call might wait for, far above what a
# busy machine takes.
SOON_S = 100.0


@dataclass(frozen=True)
class Handle:
    """A session's sandbox, as this host knows it."""

    supervisor: int  # process 1 inside
    container: str | None  # docker's id

    @property
    def workers(self) -> list[int]:
        path = Path(f"/proc/{self.supervisor}/task/{self.supervisor}/children")
        return [int(pid) for pid in path.read_text().split()]

    def everything(self) -> list[int]:
        """The processes of its PID namespace."""
        wanted = _namespace(self.supervisor)
        running = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
        return [pid for pid in running if _namespace(pid) == wanted]


def sandbox_of(server: Server, session: Session) -> Handle:
    (found,) = sandboxes_of(server, session)
    return found


def sandboxes_of(server: Server, session: Session) -> list[Handle]:
    """All that are there for a session: one, unless something was doubled or lost."""
    label = session_label(session)
    if server.backend == "docker":
        ours = {"label": [f"{INSTANCE}={instance_of(server)}", f"io.kodou.session={label}"]}
        with engine() as client:
            ids = [each["Id"] for each in client.containers(filters=ours)]
            return [Handle(client.inspect_container(each)["State"]["Pid"], each) for each in ids]
    kept = [json.loads(path.read_text()) for path in (server.data_dir / "handles" / server.backend).glob("*.json")]
    return [Handle(int(each["data"]["pid"]), None) for each in kept if each["labels"]["io.kodou.session"] == label]


def session_label(session: Session) -> str:
    claims = session.id.split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["jti"])


def state_of(session: Session) -> str:
    found = session.client.get("/session").json()["sessions"]
    return next((str(each["state"]) for each in found if each["id"] == session_label(session)), "gone")


@contextmanager
def calling(session: Session, *call: object, **members: object) -> "Iterator[Future[httpx.Response]]":
    """A call under way, its reply to come: what is done to the sandbox inside, happens in the middle of it."""
    call = call or ("time.sleep", LONG_S)
    with ThreadPoolExecutor(1) as thread:
        reply = thread.submit(lambda: session.post(*call, **{"timeout": LONG_S * 1000, **members}))
        until(lambda: reply.done() or state_of(session) == "busy", "the call to begin")
        yield reply


def send(pids: list[int], what: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, what)


def _namespace(pid: int) -> str | None:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    return None
