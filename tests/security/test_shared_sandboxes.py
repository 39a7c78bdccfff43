"""What sessions that share a sandbox (`share_sandboxes`) are kept from doing to each other, each tried from inside."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from runner import frames

from orchestrator.auth.keys import Principal
from orchestrator.auth.tokens import Tokens
from orchestrator.errors import EngineUnavailable
from orchestrator.records import Environment, EnvironmentState, Resources
from orchestrator.sandboxes.backend import Image
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend
from orchestrator.sandboxes.docker.backend import DockerBackend
from orchestrator.sandboxes.process import ProcessBackend
from orchestrator.sandboxes.replies import Reply, TimedOut, Value, Violation
from orchestrator.sandboxes.work import Work
from orchestrator.sessions.manager import SessionManager, SessionOptions
from orchestrator.settings import Settings
from orchestrator.store.memory import MemoryStore
from tests.bubblewrap_fixtures import BubblewrapData
from tests.docker_fixtures import DockerBase, build_order, docker_settings
from tests.made_packages import wheel

pytestmark = pytest.mark.anyio

EPERM, EACCES = 1, 13
PIDS = 24
CALL_S = 120.0
# Imported by process 1, which may change its user id: what does it get from that?
MODULE = """
import os

def become(uid):
    try:
        os.setresuid(uid, uid, uid)
    except OSError as exc:
        return exc.errno
    return 0

IMPORTED_IN = os.getpid()
IMPORTED_AS = os.getuid()
VARIABLE = os.environ.get("WHICH")
AS_ROOT, AS_ANOTHER_SANDBOX = become(0), become(os.getuid() - 1)
"""


@dataclass(frozen=True)
class Case:
    """A backend, and an environment with `MODULE` as the package `tiny`."""

    settings: Settings
    image: Image
    backend: Callable[[], DockerBackend | BubblewrapBackend]


@pytest.fixture(scope="module")
def docker_case(docker_base: DockerBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    data_dir = tmp_path_factory.mktemp("docker")
    settings = docker_settings(data_dir, docker_base.name, share_sandboxes="owner")
    image = _built(lambda: DockerBackend(settings), tmp_path_factory)
    yield Case(settings, image, lambda: DockerBackend(settings))
    docker_base.engine.remove_image(image.ref, force=True)


@pytest.fixture(scope="module")
def bubblewrap_case(bubblewrap_data: BubblewrapData, tmp_path_factory: pytest.TempPathFactory) -> Case:
    settings = bubblewrap_data.settings.model_copy(update={"share_sandboxes": "owner"})
    if BubblewrapBackend(settings)._uids is None:
        pytest.skip("not root: there are no user ids to give")
    image = _built(lambda: BubblewrapBackend(settings), tmp_path_factory)
    return Case(settings, image, lambda: BubblewrapBackend(settings))


def _built(make: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Image:
    async def build() -> Image:
        backend = make()
        await backend.images.prepare()
        interpreter = (await backend.images.interpreters())[0]
        package = wheel(tmp_path_factory.mktemp("wheel"), module=MODULE)
        # A name of its own: an engine has other runs beside this.
        order = build_order(f"test-{secrets.token_hex(6)}", interpreter, package)
        async for _ in backend.images.build(order):
            pass
        image = await backend.images.find(order.environment_id)
        await backend.aclose()
        assert isinstance(image, Image)
        return image

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, build()).result()


@pytest.fixture(
    params=[
        pytest.param("docker_case", id="docker", marks=pytest.mark.docker),
        pytest.param("bubblewrap_case", id="bubblewrap", marks=pytest.mark.bubblewrap),
    ]
)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.getfixturevalue(request.param)
    return found


class Server:
    """A session manager over a backend and a store, as a server has one; both outlive it."""

    def __init__(self, case: Case, **settings: object) -> None:
        self._case = case
        self._settings = case.settings.model_copy(update=settings)
        self._store = MemoryStore()
        self.backend = case.backend()
        self.manager: SessionManager

    async def start(self) -> None:
        tokens = await asyncio.to_thread(Tokens.load, self._settings.data_dir)
        self.manager = await asyncio.to_thread(SessionManager, self._settings, self._store, self.backend, tokens)
        await self.manager.start()

    async def session(self, owner: str = "alice", **env: str) -> "Session":
        principal = Principal("k" * 32, owner, frozenset({"setup", "call"}))
        options = SessionOptions(Resources(256, 1.0, PIDS, 16), "none", env, ttl_s=600, distributions=("tiny",))
        opened = await self.manager.open(principal, _environment(self._case.image), self._case.image, options)
        return Session(self, principal, opened.sessionid)

    async def sandboxes(self) -> int:
        return len(await self.backend.owned({}))


class Session:
    def __init__(self, server: Server, principal: Principal, sessionid: str) -> None:
        self._server = server
        self._principal = principal
        self._sessionid = sessionid
        self.restarted = False

    async def reply(self, code: str, timeout_s: float = CALL_S) -> Reply:
        expression = f"(lambda names: (exec({code!r}, names), names.get('result'))[1])({{}})"
        body = json.dumps({"namepath": ["builtins", "eval"], "args": [expression]}).encode()
        manager = self._server.manager
        outcome = await manager.call(self._sessionid, self._principal, Work(frames.CALL, body), timeout_s=timeout_s)
        self.restarted = outcome.restarted
        return outcome.reply

    async def run(self, code: str) -> Any:
        """What the statements leave in `result`."""
        reply = await self.reply(code)
        assert isinstance(reply, Value), reply
        return json.loads(reply.body)["value"]

    async def close(self) -> None:
        await self._server.manager.close(self._sessionid, self._principal)

    async def slot(self) -> str:
        """The name of its link's directory."""
        live = await self._server.manager.find(self._sessionid, self._principal)
        assert live.sandbox is not None
        return live.sandbox.id


def _environment(image: Image) -> Environment:
    now = datetime.now(UTC)
    return Environment(
        image.environment_id, "python", "3", {}, "", "x", image.ref, 1, EnvironmentState.READY, "", now, now, now
    )


@pytest.fixture
async def server(case: Case) -> AsyncIterator[Server]:
    found = Server(case)
    await found.start()
    yield found
    await found.manager.aclose()
    assert await found.sandboxes() == 0
    await found.backend.aclose()


async def test_sandboxes_are_shared_by_sessions_of_one_owner_only(case: Case) -> None:
    server = Server(case, max_sessions_per_sandbox=2)
    await server.start()
    try:
        alices = await asyncio.gather(*(server.session("alice") for _ in range(3)))
        assert await server.sandboxes() == 2
        bobs = await server.session("bob")
        assert await server.sandboxes() == 3
        uids = [await each.run("import os; result = os.getuid()") for each in (*alices, bobs)]
        assert len(set(uids)) == 4
        for each in (*alices, bobs):
            assert await each.run("import tiny; result = tiny.IMPORTED_IN") == 1
        await alices[0].close()
        await server.session("alice")
        assert await server.sandboxes() == 3
    finally:
        await server.manager.aclose()
        await server.backend.aclose()


async def test_variables_are_there_before_anything_is_imported(server: Server) -> None:
    await server.session()
    with_variables = await server.session(WHICH="mine")
    assert await with_variables.run("import tiny; result = tiny.IMPORTED_IN, tiny.VARIABLE") != [1, None]
    assert await with_variables.run("import tiny; result = tiny.VARIABLE") == "mine"


async def test_a_session_has_no_rights_but_its_users(server: Server) -> None:
    session, neighbour = await server.session(), await server.session()
    rights = await session.run(
        "result = [line.split()[1] for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNewPrivs'))]"
    )
    assert [int(found, 16) for found in rights] == [0, 0, 0, 0, 0, 1]
    assert await session.run("import os; result = [os.getgroups(), len(set(os.getresuid() + os.getresgid()))]") == [
        [],
        1,
    ]
    other = await neighbour.run("import os; result = os.getuid()")
    assert await session.run(f"import tiny; result = tiny.become({other})") == EPERM


async def test_what_is_imported_for_all_gets_to_no_user_of_another_sandbox(server: Server) -> None:
    """Process 1 runs the imports of an environment, with the right to change its user id."""
    session = await server.session()
    names = ("IMPORTED_IN", "AS_ROOT", "AS_ANOTHER_SANDBOX")
    assert await session.run(f"import tiny; result = [getattr(tiny, name) for name in {names}]") == [1, EPERM, EPERM]
    assert await session.run("import tiny; result = tiny.IMPORTED_AS") >= 1000


async def test_a_session_gets_at_nothing_of_its_neighbour(server: Server) -> None:
    victim, attacker = await server.session(), await server.session()
    pid, parent, home = await victim.run(
        "import os; open('mine', 'w').write('secret'); open('/tmp/open', 'w').write('secret')\n"
        "result = [os.getpid(), os.getppid(), os.getcwd()]"
    )
    slot = await victim.slot()
    attempts = {
        "look into its home": f"os.listdir({home!r})",
        "read its file": f"open({home!r} + '/mine')",
        "read a file it left open": "open('/tmp/open')",
        "remove that": "os.unlink('/tmp/open')",
        "rename its home": f"os.rename({home!r}, '/tmp/other')",
        "end its worker": f"os.kill({pid}, 9)",
        "stop its supervisor": f"os.kill({parent}, 19)",
        "end process 1": "os.kill(1, 9)",
        "read its variables": f"open('/proc/{pid}/environ').read()",
        "read its memory": f"open('/proc/{pid}/mem', 'rb').read(1)",
        "read process 1's memory": "open('/proc/1/mem', 'rb').read(1)",
        "see its descriptors": f"os.listdir('/proc/{pid}/fd')",
        "take its working directory": f"os.listdir('/proc/{pid}/cwd')",
        "connect as it": f"connect('/run/kodou/{slot}/s')",
        "connect as process 1": "connect('/run/kodou/s')",
    }
    code = "import os, socket\ndef connect(path):\n    socket.socket(socket.AF_UNIX).connect(path)\n"
    for what, attempt in attempts.items():
        found = await attacker.run(
            f"{code}try:\n    {attempt}\n    result = 0\nexcept OSError as exc:\n    result = exc.errno\n"
        )
        assert found in (EPERM, EACCES), what
    assert await victim.run("import os; result = [os.getpid(), open('mine').read()]") == [pid, "secret"]


DAEMON = """
import os, time
ready, told = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(told, b"x")
        while True:
            time.sleep(1000)
    os._exit(0)
os.wait()
os.read(ready, 1)
"""
PROCESSES_OF = """
def processes(uid):
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            lines = open(f"/proc/{name}/status").read().splitlines()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in lines)
        if str(uid) in fields["Uid"].split() and "Z" not in fields["State"]:
            found.append(int(name))
    return found
"""


async def test_a_deadline_is_one_sessions_own(server: Server) -> None:
    neighbour, session = await server.session(), await server.session()
    await neighbour.run("import builtins; builtins.kept = 5")
    pid = await neighbour.run("import os; result = os.getpid()")
    uid, worker = await session.run(f"{DAEMON}result = [os.getuid(), os.getpid()]")
    assert isinstance(await session.reply("while True: pass", timeout_s=0.3), TimedOut)
    assert await session.run("result = 5") == 5  # by then the fresh worker is there, however late
    left = await neighbour.run(f"import os\n{PROCESSES_OF}result = processes({uid})")
    assert len(left) == 2  # its supervisor, and a fresh worker
    assert worker not in left
    assert await neighbour.run("import builtins, os; result = [builtins.kept, os.getpid()]") == [5, pid]
    assert not neighbour.restarted


async def test_a_session_that_takes_all_it_may_leaves_the_others_calling(server: Server) -> None:
    neighbour, session = await server.session(), await server.session()
    bomb = (
        "import os, time\ncount = 0\ntry:\n    while True:\n        if os.fork() == 0:\n            time.sleep(1000)\n"
        "        count += 1\nexcept OSError:\n    result = count\n"
    )
    assert 0 < await session.run(bomb) < PIDS
    assert await neighbour.run("import os\npid = os.fork() or os._exit(7)\nresult = os.waitpid(pid, 0)[1] >> 8") == 7
    taken = "try:\n    bytearray(400 << 20)\n    result = 'all'\nexcept MemoryError:\n    result = 'refused'\n"
    assert await session.run(taken) == "refused"
    assert isinstance(await session.reply("while True: pass", timeout_s=0.3), TimedOut)
    assert await session.run("result = 5") == 5
    assert await neighbour.run("result = 5") == 5


async def test_nothing_outlives_its_session(server: Server) -> None:
    neighbour, session = await server.session(), await server.session()
    leave = "for path in ('/tmp/left', '/dev/shm/left'):\n    os.mkdir(path)\n    open(path + '/file', 'w')\n"
    uid = await session.run(f"{DAEMON}{leave}result = os.getuid()")
    look = (
        f"import os\n{PROCESSES_OF}result = [processes({uid}), [path for path in ('/tmp', '/dev/shm', '/dev/mqueue')"
        f" for name in os.listdir(path) if os.lstat(path + '/' + name).st_uid == {uid}]]"
    )
    before = await neighbour.run(look)
    assert len(before[0]) == 3
    assert before[1] == ["/tmp", "/tmp", "/dev/shm"]
    await session.close()
    assert await neighbour.run(look) == [[], []]
    following = await server.session()
    assert await following.run("import os; result = os.getuid()") == uid
    assert await following.run("import os; result = os.listdir('.')") == []


async def test_a_session_that_ends_its_supervisor_loses_its_own_state_only(server: Server) -> None:
    neighbour, session = await server.session(), await server.session()
    pid = await neighbour.run("import os; result = os.getpid()")
    assert isinstance(await session.reply("import os, time; os.kill(os.getppid(), 9); time.sleep(600)"), Violation)
    assert await session.run("result = 5") == 5
    assert session.restarted
    assert await neighbour.run("import os; result = os.getpid()") == pid
    assert await server.sandboxes() == 1


async def test_after_a_restart_of_the_server_sessions_begin_afresh(server: Server) -> None:
    session = await server.session()
    await session.run("import builtins; builtins.kept = 5")
    for _ in range(2):
        await server.manager.aclose()
        assert await server.sandboxes() == 0
        await server.start()
        for live in server.manager._registry:
            await server.manager._lifecycle.persist(live)
    assert await session.run("import builtins; result = hasattr(builtins, 'kept')") is False
    assert session.restarted


def test_a_backend_that_cannot_share_is_refused(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, backend="process", allow_process_backend=True, share_sandboxes="owner")
    with pytest.raises(EngineUnavailable, match="KODOU_SHARE_SANDBOXES: the process backend cannot"):
        SessionManager(settings, MemoryStore(), ProcessBackend(settings), Tokens.load(tmp_path))
