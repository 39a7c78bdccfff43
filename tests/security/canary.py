"""Plants marks wherever code in a sandbox can leave any, and searches for them wherever code in a sandbox can look.

Its source is sent into sandboxes and builds and run there: standard library only, Python 3.8 and newer. A mark is searched
for by a pattern that does not match itself, so that memory can be searched too.
"""
# ruff: noqa: PTH103, PTH111, PTH115, PTH116, PTH118, PTH123, PTH208 - paths are text here, in old interpreters too

import ctypes
import os
import re
import socket
import stat
import subprocess
import sys
import time

# System V numbers. (linux/ipc.h)
_CREATE, _NO_WAIT = 0o1000, 0o4000
_RECENT_S = 3600  # older files are the system's own, and not read
_MOST_BYTES = 1 << 20
_KEPT = []  # objects that are to live as long as the process

_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p
_libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


def pattern(mark) -> str:
    """A regular expression that finds the mark (text or bytes) and is not found by itself."""
    data = mark if isinstance(mark, bytes) else mark.encode()
    return "".join(f"\\x{byte:02x}" for byte in data)


def key_of(mark: str) -> int:
    """The mark's System V key."""
    return int.from_bytes(mark.encode()[-4:], "big") & 0x7FFFFFFF | 1


# --- planting ---


def plant(mark: str) -> dict:
    """Leave the mark everywhere. Returns {"kinds": what could be left, as `search` names it, "places": directories written,
    "ports": [TCP, UDP]}."""
    data, key = mark.encode(), key_of(mark)
    places = [path for path in _directories() if _leaves_file(path, mark)]
    kinds = {"file"} if places else set()
    for name in (".cache", ".config", ".local/share"):
        directory = os.path.join(os.path.expanduser("~"), name, mark)
        os.makedirs(directory, exist_ok=True)
    sys.modules["builtins"].kept_by_canary = [mark, bytearray(data)]
    os.environ["CANARY"] = mark
    memfd = os.memfd_create(mark)
    os.write(memfd, data)
    null = subprocess.DEVNULL
    sleeper = [sys.executable, "-c", _SLEEPER, mark]
    _KEPT.append(
        subprocess.Popen(sleeper, env={"CANARY": mark}, stdin=null, stdout=null, stderr=null, pass_fds=[memfd])
    )
    kinds |= {"memory", "process", "descriptor"}
    ports = [_listens(socket.SOCK_STREAM), _listens(socket.SOCK_DGRAM)]
    for address in (os.path.join("/tmp", mark + ".sock"), "\0" + mark):
        server = socket.socket(socket.AF_UNIX)
        server.bind(address)
        server.listen(1)
        _KEPT.append(server)
    kinds |= {"tcp", "udp", "socket file", "abstract socket"}
    for kind, leave in (("shm", _leave_shm), ("queue", _leave_queue), ("semaphore", _leave_semaphore)):
        if leave(key, data):
            kinds.add(kind)
    if _mq_open(mark, os.O_CREAT | os.O_RDWR) >= 0:
        kinds.add("mqueue")
    return {"kinds": sorted(kinds), "places": sorted(places), "ports": ports}


_SLEEPER = """
import ctypes, sys, time
ctypes.CDLL(None).prctl(15, sys.argv[1][-15:].encode())  # PR_SET_NAME
time.sleep(600)
"""


def _directories() -> list:
    found = []
    for path, names, _ in os.walk("/"):
        names[:] = [name for name in names if path != "/" or name not in ("proc", "sys")]
        if os.access(path, os.W_OK | os.X_OK):
            found.append(path)
    return [*found, "/proc/self", "/sys/fs/cgroup"]


def _leaves_file(directory: str, mark: str) -> bool:
    try:
        with open(os.path.join(directory, mark), "w") as file:
            file.write(mark)
    except OSError:
        return False
    return True


def _listens(kind: int) -> int:
    server = socket.socket(socket.AF_INET, kind)
    server.bind(("127.0.0.1", 0))
    if kind == socket.SOCK_STREAM:
        server.listen(8)
    _KEPT.append(server)
    return int(server.getsockname()[1])


def _leave_shm(key: int, data: bytes) -> bool:
    number = _libc.shmget(key, 4096, _CREATE | 0o666)
    address = _libc.shmat(number, None, 0) if number >= 0 else None
    if number < 0 or address in (None, ctypes.c_void_p(-1).value):
        return False
    ctypes.memmove(address, data, len(data))
    return True


def _leave_queue(key: int, data: bytes) -> bool:
    number = _libc.msgget(key, _CREATE | 0o666)
    message = ctypes.create_string_buffer((1).to_bytes(8, sys.byteorder) + data)
    return number >= 0 and _libc.msgsnd(number, message, len(data), _NO_WAIT) == 0


def _leave_semaphore(key: int, data: bytes) -> bool:
    return _libc.semget(key, 1, _CREATE | 0o666) >= 0


def _mq_open(mark: str, flags: int) -> int:
    try:
        return int(ctypes.CDLL("librt.so.1").mq_open(("/" + mark).encode(), flags, 0o666, None))
    except OSError:
        return -1


# --- searching ---


def search(patterns: list, key: int, ports: list) -> list:
    """Kinds of places where any of the patterns is found, or what the key and ports lead to is there; and "socket <path>"
    for each Unix socket in the file system."""
    wanted = re.compile("|".join(patterns).encode())
    found = set()
    if _in_memory(wanted):  # first: later the mark itself would be in it
        found.add("memory")
    found.update(_in_processes(wanted))
    found.update(_in_files(wanted))
    found.update(_in_ipc(wanted, key))
    found.update(_in_network(wanted, ports))
    return sorted(found)


def _in_memory(wanted: "re.Pattern") -> bool:
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.readlines():
            span, rights = line.split()[:2]
            if "r" not in rights or "w" not in rights:
                continue
            start, end = (int(number, 16) for number in span.split("-"))
            try:
                memory.seek(start)
                if wanted.search(memory.read(end - start)):
                    return True
            except (OSError, ValueError):
                continue
    return False


def _in_processes(wanted: "re.Pattern") -> set:
    found = set()
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        if int(pid) != os.getpid():
            for name in ("environ", "cmdline", "comm", "maps"):
                if wanted.search(_read(f"/proc/{pid}/{name}")):
                    found.add("process")
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for number in descriptors:
            path = f"/proc/{pid}/fd/{number}"
            try:
                if wanted.search(os.fsencode(os.readlink(path))):
                    found.add("descriptor")
                if stat.S_ISREG(os.stat(path).st_mode) and wanted.search(_read(path)):
                    found.add("descriptor")
            except OSError:
                continue
    return found


def _in_files(wanted: "re.Pattern") -> set:
    found = set()
    since = time.time() - _RECENT_S
    for path, directories, files in os.walk("/"):
        directories[:] = [name for name in directories if path != "/" or name not in ("proc", "sys")]
        for name in [*directories, *files]:
            full = os.path.join(path, name)
            try:
                about = os.lstat(full)
            except OSError:
                continue
            named = wanted.search(os.fsencode(name))
            if path == "/dev/mqueue":
                found |= {"mqueue"} if named else set()
            elif stat.S_ISSOCK(about.st_mode):
                found.add("socket file" if named else "socket " + full)
            elif named or (stat.S_ISREG(about.st_mode) and about.st_ctime > since and wanted.search(_read(full))):
                found.add("file")
    return found


def _in_ipc(wanted: "re.Pattern", key: int) -> set:
    found = set()
    numbers = [_libc.shmget(key, 0, 0), *_listed("shm")]
    for number in [each for each in numbers if each >= 0]:
        address = _libc.shmat(number, None, 0o10000)  # SHM_RDONLY
        if address not in (None, ctypes.c_void_p(-1).value) and wanted.search(ctypes.string_at(address, 64)):
            found.add("shm")
    message = ctypes.create_string_buffer(4096)
    for number in [each for each in [_libc.msgget(key, 0), *_listed("msg")] if each >= 0]:
        while _libc.msgrcv(number, message, 4000, 0, _NO_WAIT) >= 0:
            if wanted.search(message.raw):
                found.add("queue")
    if _libc.semget(key, 1, 0) >= 0 or _listed("sem"):
        found.add("semaphore")
    return found


def _listed(kind: str) -> list:
    """Numbers of the System V objects that the kernel tells of."""
    lines = _read("/proc/sysvipc/" + kind).decode().splitlines()[1:]
    return [int(line.split()[1]) for line in lines]


def _in_network(wanted: "re.Pattern", ports: list) -> set:
    found = set()
    if wanted.search(_read("/proc/net/unix")):
        found.add("abstract socket")
    for kind, port, names in (("tcp", ports[0], ("tcp", "tcp6")), ("udp", ports[1], ("udp", "udp6"))):
        if any(len(_read("/proc/net/" + name).splitlines()) > 1 for name in names):
            found.add(kind)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as client:
            client.settimeout(1)
            if kind == "tcp" and client.connect_ex(("127.0.0.1", port)) == 0:
                found.add(kind)
    return found


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _MOST_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
