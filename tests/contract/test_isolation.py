"""What every backend that isolates promises besides. Held against each in `conftest.ISOLATING`."""

import json
import os
import secrets
import socket

import pytest

from orchestrator.sandboxes.replies import Raised, TimedOut, Value, Violation, WorkerDied
from tests.contract.conftest import BackendCase
from tests.contract.marked import Marked
from tests.contract.running import CALL_S, MB, RESOURCES, started, until

pytestmark = pytest.mark.anyio


async def test_no_network_is_there(isolating_case: BackendCase) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with started(isolating_case) as running:
            assert await running.run("import socket; result = [n for _, n in socket.if_nameindex()]") == ["lo"]
            for address in (("1.1.1.1", 53), server.getsockname()):
                reply = await running.reply(f"import socket; socket.create_connection({address!r}, 2)")
                assert isinstance(reply, Raised)


async def test_nothing_runs_with_rights(isolating_case: BackendCase, marked: Marked) -> None:
    async with started(isolating_case) as running:
        status = "dict(line.split(':', 1) for line in open('/proc/self/status'))"
        code = f"s = {status}; result = [s[k].strip() for k in ('CapEff', 'CapPrm', 'CapBnd', 'NoNewPrivs', 'Seccomp')]"
        effective, permitted, _, no_new_privileges, seccomp = await running.run(code)
        assert int(effective, 16) == int(permitted, 16) == 0
        assert (no_new_privileges, seccomp) == ("1", "2")
        assert await running.run("import os; result = os.getuid()") != 0
        # What the host says counts: behind a user namespace the inside may look as it likes.
        await running.run(marked.start())
        await until(lambda: len(marked.pids()) == 2, within_s=CALL_S)
        assert 0 not in marked.user_ids()


async def test_each_sandbox_has_a_user_id_of_its_own(isolating_case: BackendCase, marked: Marked) -> None:
    async with started(isolating_case) as one, started(isolating_case) as other:
        for running in (one, other):
            await running.run(marked.start())
        await until(lambda: len(marked.pids()) == 4, within_s=CALL_S)
        # Without root there are none to give: all run under the server's own.
        assert len(marked.user_ids()) == (2 if os.geteuid() == 0 else 1)


@pytest.mark.parametrize("directory", ["/", "/usr", "/etc", "/opt/kodou/env", "/opt/kodou/lib/runner", "/run/kodou"])
async def test_nothing_but_tmp_can_be_written(isolating_case: BackendCase, directory: str) -> None:
    async with started(isolating_case) as running:
        reply = await running.reply(f"open({directory!r} + '/file', 'w')")
        assert isinstance(reply, Raised)
        assert json.loads(reply.body)["exception"]["type"] in {"OSError", "PermissionError", "FileNotFoundError"}


async def test_the_link_cannot_be_replaced(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        for code in ("import os; os.unlink('/run/kodou/s')", "import os; os.rename('/run/kodou/s', '/run/kodou/t')"):
            assert isinstance(await running.reply(code), Raised)
        assert await running.run("result = 1") == 1


async def test_other_processes_cannot_be_seen(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        listing = "[n for n in __import__('os').listdir('/proc') if n.isdecimal()]"
        pids = [int(name) for name in await running.run(f"result = {listing}")]
        assert len(pids) < 8
        assert max(pids) < 1000
        words = await running.run(f"result = [open(f'/proc/{{n}}/cmdline').read() for n in {listing}]")
        assert not [word for word in words if "pytest" in word]


async def test_the_servers_variables_cannot_be_seen(
    isolating_case: BackendCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = f"canary-{secrets.token_hex(8)}"
    monkeypatch.setenv("KODOU_CANARY", canary)
    async with started(isolating_case, GREETING="hello") as running:
        names = await running.run("import os; result = sorted(os.environ)")
        assert {"GREETING", "HOME", "LANG", "PATH", "TMPDIR"} <= set(names)
        assert [name for name in names if name.startswith("KODOU")] == []
        code = """
import glob
result = ""
for path in glob.glob("/proc/*/environ"):
    try:
        result += open(path, errors="replace").read()
    except OSError:
        pass
"""
        assert canary not in str(await running.run(code))


async def test_tmp_is_bounded(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        code = f"""
import os
written = 0
try:
    for n in range(4):
        with open(f"/tmp/{{n}}", "wb") as file:
            for _ in range({RESOURCES.disk_mb}):
                written += file.write(bytes({MB}))
except OSError as exc:
    result = [exc.errno, written]
"""
        error, written = await running.run(code)
        assert error in {28, 122}  # ENOSPC, EDQUOT
        assert written <= RESOURCES.disk_mb * MB


async def test_files_in_tmp_are_bounded_in_number(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        code = """
try:
    for n in range(1_000_000):
        open(f"/tmp/{n}", "w").close()
except OSError as exc:
    result = exc.errno
"""
        reply = await running.reply(code)
        if isinstance(reply, Value):
            assert json.loads(reply.body)["value"] == 28  # ENOSPC
        else:  # they count as its memory, which ended it
            assert isinstance(reply, WorkerDied | Violation)


async def test_memory_is_bounded(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        code = f"kept = []\nfor _ in range(64): kept.append(bytearray(b'x') * {RESOURCES.memory_mb // 16 * MB})"
        reply = await running.reply(code)
        assert isinstance(reply, Raised | WorkerDied | Violation)
        if isinstance(reply, Raised):
            assert json.loads(reply.body)["exception"]["type"] == "MemoryError"


async def test_processes_are_bounded(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        code = """
import os
count = 0
try:
    while count < 1000:
        if os.fork() == 0:
            import time
            time.sleep(600)
            os._exit(0)
        count += 1
except OSError:
    result = count
"""
        assert await running.run(code) < RESOURCES.pids
        # And the bound is no trap: the next deadline finds its way.
        assert await running.reply("while True: pass", timeout_s=0.5) == TimedOut()
        assert await running.run("result = 1") == 1


async def test_descriptors_of_the_server_are_not_inherited(isolating_case: BackendCase) -> None:
    async with started(isolating_case) as running:
        code = """
import os
result = []
for name in os.listdir("/proc/self/fd"):
    try:
        result.append(os.readlink(f"/proc/self/fd/{name}"))
    except OSError:
        pass
"""
        targets = await running.run(code)
        assert targets
        assert not [target for target in targets if str(isolating_case.settings.data_dir) in target]
        # The call connection, and nothing else that leads out.
        assert len([target for target in targets if target.startswith("socket:")]) == 1
