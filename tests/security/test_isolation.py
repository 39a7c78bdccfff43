"""What a session cannot do, on each backend that isolates, each tried from inside. (SECURITY.md; what starting a sandbox
promises stands in `tests/contract`, what is one backend's own in a module of that backend.)"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import BACKENDS, BASE_IMAGES, Server, Session, require, running

PIDS, DISK_MB, NOFILE = 64, 16, 1024
KIB = 1024


@pytest.fixture(scope="module", params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    require(request.param)
    bases = json.dumps(json.loads(BASE_IMAGES)[:1])
    with running(request.param, KODOU_BASE_IMAGES=bases, KODOU_PIDS=str(PIDS), KODOU_DISK_MB=str(DISK_MB)) as found:
        yield found


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Session]:
    """A session for attacks that leave it as it was."""
    session = server.session("eve")
    yield session
    session.close()


@pytest.fixture
def own(server: Server) -> Iterator[Session]:
    """A session that an attack may wear out."""
    session = server.session("mallory")
    yield session
    session.close()


def ran(session: Session, code: str, **members: Any) -> Any:
    """What statements leave in `result`."""
    expression = f"(lambda names: (exec({code!r}, names), names.get('result'))[1])({{}})"
    return session.value(["builtins", "eval"], expression, **members)


# --- the kernel's rarely needed parts ---

# Numbers of x86-64, those of 64-bit ARM where they have one, and arguments that would do where it is allowed.
SYSCALLS = {
    "make a user namespace": (272, 97, "0x10000000"),
    "make a network namespace": (272, 97, "0x40000000"),
    "fork into a new namespace": (56, 220, "0x10000011, 0, 0, 0, 0"),
    "enter a namespace": (308, 268, "0, 0"),
    "mount": (165, 40, "b'none', b'/tmp', b'tmpfs', 0, 0"),
    "unmount": (166, 39, "b'/tmp', 2"),
    "open a tree of mounts": (428, 428, "-100, b'/', 1"),
    "open a file system": (430, 430, "b'tmpfs', 0"),
    "change a mount's attributes": (442, 442, "-100, b'/', 0, 0, 0"),
    "pivot the root": (155, 41, "b'/tmp', b'/tmp'"),
    "chroot": (161, 51, "b'/tmp'"),
    "trace process 1": (101, 117, "16, 1, 0, 0"),
    "read another's memory": (310, 270, "1, 0, 0, 0, 0, 0"),
    "take another's descriptor": (438, 438, "0, 0, 0"),
    "compare processes": (312, 272, "1, 1, 0, 0, 0"),
    "add a key": (248, 217, "b'user', b'k', b'v', 1, -3"),
    "ask for a key": (249, 218, "b'user', b'k', 0, -3"),
    "use a keyring": (250, 219, "0, -3, 1"),
    "load a program into the kernel (bpf)": (321, 280, "0, 0, 0"),
    "count events (perf)": (298, 241, "b'\\0' * 128, 0, -1, -1, 0"),
    "handle page faults": (323, 282, "0"),
    "queue work by io_uring": (425, 425, "1, b'\\0' * 120"),
    "load a module": (175, 105, "0, 0, b''"),
    "load a module from a file": (313, 273, "0, b'', 0"),
    "load a kernel": (246, 104, "0, 0, 0, 0"),
    "open by handle": (304, 265, "-100, b'\\0' * 16, 0"),
    "watch a whole file system": (300, 262, "0, 0"),
    "set the clock": (227, 112, "0, b'\\0' * 16"),
    "adjust the clock": (305, 266, "0, b'\\1' + b'\\0' * 255"),
    "name the host": (170, 161, "b'x', 1"),
    "name the domain": (171, 162, "b'x', 1"),
    "restart the host": (169, 142, "0xfee1dead, 672274793, 0x89abcdef, 0"),
    "use a swap file": (167, 224, "b'/tmp/x', 0"),
    "read the kernel's log": (103, 116, "3, b'\\0' * 64, 64"),
    "account": (163, 89, "0"),
    "move another's pages": (279, 239, "1, 0, 0, 0, 0, 0"),
    "set quotas": (179, 60, "0, 0, 0, 0"),
    "use ports": (172, None, "3"),
    "hang up terminals": (153, 58, ""),
}
REFUSED = {"EPERM", "ENOSYS", "EACCES"}


@pytest.mark.parametrize("what", SYSCALLS)
def test_no_system_call_gets_it_to(shared: Session, what: str) -> None:
    x86, arm, arguments = SYSCALLS[what]
    code = f"""
import ctypes, errno, platform
libc = ctypes.CDLL(None, use_errno=True)
number = {x86} if platform.machine() == "x86_64" else {arm}
returned = -1 if number is None else libc.syscall(number{", " + arguments if arguments else ""})
result = [returned, "EPERM" if number is None else errno.errorcode.get(ctypes.get_errno())]
"""
    returned, error = ran(shared, code)
    assert returned == -1
    assert error in REFUSED


@pytest.mark.parametrize("call", ["setuid(0)", "setgid(0)", "setgroups([0])", "setresuid(0, 0, 0)"])
def test_it_cannot_become_anybody_else(shared: Session, call: str) -> None:
    code = f"""
import os
try:
    os.{call}
    result = "done"
except OSError:
    result = [os.getuid() != 0, os.getgid() != 0]
"""
    assert ran(shared, code) == [True, True]


FAMILIES = {
    "virtual machines (vsock)": (40, 1, 0),
    "the kernel's crypto": (38, 5, 0),
    "packets": (17, 3, 0),
    "raw IP": (2, 3, 1),
    "SCTP": (2, 1, 132),
    "CAN": (29, 3, 1),
    "TIPC": (30, 1, 0),
    "Bluetooth": (31, 3, 1),
    "XDP": (44, 3, 0),
    "the audit log": (16, 3, 9),
    "the packet filter": (16, 3, 12),
}


@pytest.mark.parametrize("what", FAMILIES)
def test_no_socket_leads_to(shared: Session, what: str) -> None:
    family, kind, protocol = FAMILIES[what]
    code = f"""
import socket
try:
    socket.socket({family}, {kind}, {protocol}).close()
    result = "made"
except OSError as exc:
    result = "refused"
"""
    assert ran(shared, code) == "refused"


def test_nothing_can_be_typed_into_a_terminal(shared: Session) -> None:
    code = """
import errno, fcntl, pty
_, terminal = pty.openpty()
result = []
for request in (0x5412, 0x541C, 0x5412 | 1 << 32):  # TIOCSTI, TIOCLINUX, and what the kernel takes for the first as well
    try:
        import ctypes
        done = ctypes.CDLL(None, use_errno=True).ioctl(terminal, ctypes.c_ulong(request), b"x")
        result.append(done)
    except OSError:
        result.append(-1)
"""
    assert ran(shared, code) == [-1, -1, -1]


def test_a_call_of_another_architecture_ends_its_process(own: Session) -> None:
    code = """
import ctypes, mmap, os, platform, signal
# getpid by its 32-bit number: mov eax, 20; int 0x80; ret
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3")
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
child = os.fork()
if not child:
    call()
    os._exit(0)
ended = os.waitpid(child, 0)[1]
result = os.WTERMSIG(ended) if platform.machine() == "x86_64" else signal.SIGSYS
"""
    assert ran(own, code) in (signal.SIGSYS, signal.SIGSEGV)  # the latter: a kernel without 32-bit programs


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/proc/1/oom_score_adj",
        "/proc/1/mem",
        "/proc/self/uid_map",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/release_agent",
        "/sys/kernel/uevent_helper",
        "/dev/mem",
        "/dev/kmsg",
        "/dev/fuse",
    ],
)
def test_the_kernel_takes_no_orders_by(shared: Session, path: str) -> None:
    code = f"""
try:
    with open({path!r}, "r+b", 0) as file:
        file.write(b"-1000")
    result = "written"
except (OSError, ValueError) as exc:
    result = "refused"
"""
    assert ran(shared, code) == "refused"


@pytest.mark.parametrize(
    "path",
    ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware/dmi/tables/DMI", "/proc/1/mem", "/proc/1/environ"],
)
def test_nothing_is_told_by(shared: Session, path: str) -> None:
    code = f"""
try:
    with open({path!r}, "rb", 0) as file:
        result = len(file.read(16))
except OSError as exc:
    result = 0
"""
    assert ran(shared, code) == 0


def test_no_file_gives_more_rights_than_its_user_has(shared: Session) -> None:
    code = """
import os, shutil, subprocess
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
shutil.copy("/bin/sh", "/tmp/sh")
os.chmod("/tmp/sh", 0o6755)
uids = subprocess.run(["/tmp/sh", "-pc", "id -u; id -ru"], capture_output=True, text=True).stdout.split()
find = "find / -xdev -perm /6000 -type f 2>/dev/null | grep -E '/(su|mount|sudo)$'"
found = subprocess.run(find, shell=True, capture_output=True, text=True).stdout.split()
quiet = {"capture_output": True, "stdin": subprocess.DEVNULL}
effects = [subprocess.run([path, "-c", "id"], **quiet).returncode for path in found]
result = [status["NoNewPrivs"].strip(), int(status["CapBnd"], 16), uids == [str(os.getuid())] * 2, 0 in effects]
os.unlink("/tmp/sh")
"""
    assert ran(shared, code) == ["1", 0, True, False]


def test_no_device_of_the_host_is_there(shared: Session) -> None:
    code = """
import os, stat
result = []
for path, _, names in os.walk("/dev"):
    for name in names:
        about = os.stat(os.path.join(path, name), follow_symlinks=False)
        if stat.S_ISBLK(about.st_mode) or stat.S_ISCHR(about.st_mode):
            result.append(name)
for kind in (stat.S_IFBLK, stat.S_IFCHR):
    try:
        os.mknod("/tmp/device", kind | 0o666, os.makedev(1, 3))
        result.append("made")
    except OSError:
        pass
"""
    usual = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
    found = {name for name in ran(shared, code) if not name.isdigit()}  # numbers: terminals of its own
    assert found <= usual


# --- taking more than its share ---


def test_limits_of_files_and_cores_are_set(shared: Session) -> None:
    code = """
import resource
result = [resource.getrlimit(each) for each in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)]
"""
    core, nofile, fsize = ran(shared, code)
    assert core == [0, 0]
    assert nofile[0] == nofile[1] <= 65_536
    assert fsize[0] == fsize[1] == DISK_MB * KIB**2


@pytest.mark.parametrize("directory", ["/tmp", "/dev/shm"])
def test_files_are_bounded_in_size_and_number_in(own: Session, directory: str) -> None:
    code = f"""
import os
written = made = 0
try:
    with open({directory!r} + "/large", "wb") as file:
        while True:
            written += file.write(bytes(1 << 20))
            file.flush()
except OSError as exc:
    pass
if os.path.exists({directory!r} + "/large"): os.unlink({directory!r} + "/large")
try:
    while made < 100_000:
        open({directory!r} + "/f%d" % made, "w").close()
        made += 1
except OSError as exc:
    pass
for n in range(made): os.unlink({directory!r} + "/f%d" % n)
result = [written, made]
"""
    written, made = ran(own, code)
    assert written <= (DISK_MB + 1) * KIB**2
    assert made <= DISK_MB * 256  # one for each 4 KiB


def test_threads_are_bounded_and_the_next_call_works(own: Session) -> None:
    code = """
import threading
hold, count = threading.Event(), 0
try:
    while count < 2000:
        threading.Thread(target=hold.wait, daemon=True).start()
        count += 1
except RuntimeError:
    pass
hold.set()
result = count
"""
    assert ran(own, code) < PIDS
    assert own.value("math.sqrt", 4) == 2.0


def test_open_files_are_bounded_and_the_next_call_works(own: Session) -> None:
    code = """
import os
held = []
try:
    while len(held) < 1_000_000:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError as exc:
    pass
for each in held: os.close(each)
result = len(held)
"""
    assert ran(own, code) < 65_536
    assert own.value("math.sqrt", 4) == 2.0


def test_processor_time_is_bounded(own: Session) -> None:
    code = """
import os, resource, time
began = time.monotonic()
children = []
for _ in range(4):
    pid = os.fork()
    if not pid:
        while time.monotonic() < began + 2: pass
        os._exit(0)
    children.append(pid)
for pid in children: os.waitpid(pid, 0)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
result = (used.ru_utime + used.ru_stime) / (time.monotonic() - began)
"""
    assert ran(own, code) < 1.4  # of one processor; there are at least two


def test_what_it_prints_past_its_capture_goes_nowhere(own: Session) -> None:
    code = """
import os
for number in (1, 2):
    try:
        for _ in range(200): os.write(number, b"x" * 100_000)
    except OSError:
        pass
for path in ("/proc/1/fd/1", "/proc/1/fd/2", "/dev/stdout"):
    try:
        with open(path, "wb", 0) as file:
            for _ in range(200): file.write(b"x" * 100_000)
    except OSError:
        pass
result = 1
"""
    reply = own.call(["builtins", "exec"], code)
    assert len(reply.get("stdout", "")) <= 65_536
    assert len(reply.get("stderr", "")) <= 65_536
    assert own.value("math.sqrt", 4) == 2.0


# --- process 1 ---


@pytest.mark.parametrize("number", [1, 2, 3, 9, 15, 19, 10, 14])
def test_signals_to_process_1_do_nothing(shared: Session, number: int) -> None:
    code = f"""
import os, time
for _ in range(20): os.kill(1, {number})
result = "sent"
"""
    assert ran(shared, code) == "sent"
    assert shared.value("math.sqrt", 4) == 2.0


def test_orphans_that_end_are_collected(own: Session) -> None:
    code = """
import os, time
for _ in range(30):
    if os.fork() == 0:
        if os.fork(): os._exit(0)
        os._exit(0)
while True:
    try: os.wait()
    except ChildProcessError: break
deadline = time.monotonic() + 10
def zombies():
    found = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try: found += open(f"/proc/{name}/stat").read().rpartition(")")[2].split()[0] == "Z"
            except OSError: pass
    return found
while zombies() and time.monotonic() < deadline: time.sleep(0.05)
result = zombies()
"""
    assert ran(own, code) == 0


def test_a_descriptor_sent_over_the_link_is_not_kept(server: Server, own: Session) -> None:
    own.value("math.sqrt", 4)
    before = len(list_descriptors(server))
    code = """
import array, os, socket, stat
for name in os.listdir("/proc/self/fd"):
    number = int(name)
    try:
        if number > 2 and stat.S_ISSOCK(os.fstat(number).st_mode):
            link = socket.socket(fileno=number)
            files = array.array("i", [os.open("/dev/null", 0) for _ in range(100)])
            for _ in range(3):
                link.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    except OSError:
        pass
"""
    reply = own.post(["builtins", "exec"], code)
    assert reply.json()["error"] is True  # a byte where no frame was due: the sandbox is ended
    assert own.value("math.sqrt", 4) == 2.0
    assert len(list_descriptors(server)) < before + 20


def list_descriptors(server: Server) -> list[str]:
    return [path.name for path in Path(f"/proc/{server.process.pid}/fd").iterdir()]
