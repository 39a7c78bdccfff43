"""The system call filter: what it covers, and what it does to a program that runs under it."""

import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import textwrap

import pytest

from orchestrator.sandboxes import seccomp

# A program that puts itself under the filter, then does what is asked of it.
UNDER_FILTER = """
import ctypes, errno, os, sys
program = open(sys.argv[1], "rb").read()
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
loaded = Program(len(program) // 8, program)
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(loaded)) == 0, ctypes.get_errno()

def call(number, *arguments):
    words = [ctypes.c_long(argument) for argument in arguments]
    return 0 if libc.syscall(ctypes.c_long(number), *words) >= 0 else ctypes.get_errno()
"""
EPERM, ENOSYS = 1, 38

# Numbers on x86-64, with arguments that would get past the kernel's own first checks.
REFUSED = {
    "io_uring_setup": (425, (1, 0), ENOSYS),
    "clone3": (435, (0, 0), ENOSYS),
    "ptrace": (101, (0, 0, 0, 0), EPERM),
    "process_vm_readv": (310, (1, 0, 0, 0, 0, 0), EPERM),
    "unshare(CLONE_NEWUSER)": (272, (0x10000000,), EPERM),
    "setns": (308, (0, 0), EPERM),
    "clone(CLONE_NEWUSER)": (56, (0x10000000 | 17, 0, 0, 0, 0), EPERM),
    "mount": (165, (0, 0, 0, 0, 0), EPERM),
    "umount2": (166, (0, 0), EPERM),
    "open_tree": (428, (-100, 0, 0), EPERM),
    "fsopen": (430, (0, 0), EPERM),
    "pivot_root": (155, (0, 0), EPERM),
    "chroot": (161, (0,), EPERM),
    "keyctl": (250, (0, -3, 0), EPERM),
    "add_key": (248, (0, 0, 0, 0, -3), EPERM),
    "request_key": (249, (0, 0, 0, 0), EPERM),
    "bpf": (321, (0, 0, 0), EPERM),
    "perf_event_open": (298, (0, 0, -1, -1, 0), EPERM),
    "userfaultfd": (323, (1,), EPERM),
    "kexec_load": (246, (0, 0, 0, 0), EPERM),
    "init_module": (175, (0, 0, 0), EPERM),
    "finit_module": (313, (0, 0, 0), EPERM),
    "delete_module": (176, (0, 0), EPERM),
    "reboot": (169, (0, 0, 0, 0), EPERM),
    "quotactl": (179, (0, 0, 0, 0), EPERM),
    "name_to_handle_at": (303, (-100, 0, 0, 0, 0), EPERM),
    "open_by_handle_at": (304, (-1, 0, 0), EPERM),
    "swapon": (167, (0, 0), EPERM),
    "settimeofday": (164, (0, 0), EPERM),
    "sethostname": (170, (0, 0), EPERM),
    "iopl": (172, (3,), EPERM),
    "modify_ldt": (154, (0, 0, 0), EPERM),
    "syslog": (103, (3, 0, 0), EPERM),
    "fanotify_init": (300, (0, 0), EPERM),
    "personality(ADDR_NO_RANDOMIZE)": (135, (0x0040000,), EPERM),
    "socket(AF_VSOCK)": (41, (40, 1, 0), EPERM),
    "socket(AF_ALG)": (41, (38, 5, 0), EPERM),
    "socket(AF_PACKET)": (41, (17, 3, 0), EPERM),
    "socket(AF_INET, SOCK_RAW)": (41, (2, 3, 1), EPERM),
    "socket(AF_INET, SOCK_SEQPACKET)": (41, (2, 5, 0), EPERM),
    "socket(AF_INET, SOCK_STREAM, SCTP)": (41, (2, 1, 132), EPERM),
    "socket(AF_NETLINK, NETLINK_NETFILTER)": (41, (16, 3, 12), EPERM),
    "socketpair(AF_TIPC)": (53, (30, 1, 0, 0), EPERM),
    "ioctl(TIOCSTI)": (16, (0, seccomp.TIOCSTI, 0), EPERM),
    "ioctl(TIOCLINUX)": (16, (0, seccomp.TIOCLINUX, 0), EPERM),
    "ioctl(TIOCSTI), upper half set": (16, (0, 1 << 32 | seccomp.TIOCSTI, 0), EPERM),
    "a call that is not there yet": (1000, (), ENOSYS),
}
x86_64_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")


def run(code: str, uids: range | None = None) -> str:
    """Run a program under the filter; returns what it printed."""
    with tempfile.NamedTemporaryFile() as program:
        program.write(seccomp.compiled(uids))
        program.flush()
        done = subprocess.run(
            [sys.executable, "-c", UNDER_FILTER + textwrap.dedent(code), program.name],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def outcomes() -> dict[str, int]:
    """Each of REFUSED tried once, in one program: name -> errno, 0 for success."""
    calls = {name: (number, arguments) for name, (number, arguments, _) in REFUSED.items()}
    code = f"import json\nprint(json.dumps({{name: call(n, *a) for name, (n, a) in {calls!r}.items()}}))"
    outcome: dict[str, int] = json.loads(run(code))
    return outcome


@x86_64_only
@pytest.mark.parametrize("name", REFUSED)
def test_what_reaches_deep_into_the_kernel_is_refused(outcomes: dict[str, int], name: str) -> None:
    assert outcomes[name] == REFUSED[name][2]


@x86_64_only
def test_other_terminal_requests_reach_the_kernel() -> None:
    neighbours = [
        0x5401,
        seccomp.TIOCSTI - 1,
        seccomp.TIOCSTI + 1,
        seccomp.TIOCLINUX - 1,
        seccomp.TIOCLINUX + 1,
        0x5421,
    ]
    code = f"r, w = os.pipe()\nprint([call(16, r, request, 0) for request in {neighbours}])"
    assert str(EPERM) not in run(code).strip("[]\n").split(", ")


def test_usual_programs_work() -> None:
    code = """
    import asyncio, concurrent.futures, mmap, multiprocessing, select, signal, socket, subprocess, tempfile, threading
    def square(n): return n * n
    def main():
        thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
        print(subprocess.run(["/bin/sh", "-c", "echo shell | cat"], capture_output=True, text=True).stdout.strip())
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(square, [1, 2, 3]))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            print(sum(pool.map(square, [1, 2])))
        async def client():
            server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            data = await reader.read(); writer.close(); server.close()
            process = await asyncio.create_subprocess_exec("/bin/true")
            return data, await process.wait()
        print(asyncio.run(client()))
        a, b = socket.socketpair(); a.sendall(b"x"); print(b.recv(1))
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP).close()
        socket.if_nameindex()
        socket.getaddrinfo("localhost", 80)
        with tempfile.TemporaryFile() as file: file.write(b"data"); file.flush(); mmap.mmap(file.fileno(), 4).close()
        signal.setitimer(signal.ITIMER_REAL, 10); signal.setitimer(signal.ITIMER_REAL, 0)
        print(os.get_terminal_size.__name__, os.isatty(0), os.getrandom(4) is not None, os.sched_getaffinity(0) != set())
    main()
    """
    printed = run(code)
    assert printed.splitlines() == [
        "thread",
        "shell",
        "[1, 4, 9]",
        "5",
        "(b'', 0)",
        "b'x'",
        "get_terminal_size False True True",
    ]


@x86_64_only
def test_a_32_bit_call_ends_the_process() -> None:
    # mov eax, 20 (getpid of the 32-bit table); int 0x80; ret
    code = """
    import mmap
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000cd80c3"))
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    print("still here")
    """
    with pytest.raises(AssertionError):
        run(code)


def test_all_but_covers_all_others_and_none_of_the_denied() -> None:
    for denied in ({5}, {0, 255}, {0x12, 0x1C}, set(range(256)), {1, 2, 3, 200}):
        pairs = list(seccomp.all_but(denied, bits=8))
        covered = {number for number in range(256) if any(number & mask == value for mask, value in pairs)}
        assert covered == set(range(256)) - denied


def test_the_profile_is_one_that_docker_takes() -> None:
    profile = json.loads(seccomp.profile_json())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert [entry["architecture"] for entry in profile["archMap"]] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]
    assert all(entry["subArchitectures"] == [] for entry in profile["archMap"])
    for rule in profile["syscalls"]:
        assert set(rule) <= {"comment", "names", "action", "args", "errnoRet"}
        assert rule["names"]
        assert rule["action"] in {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"}


def test_the_program_is_one_that_the_kernel_takes() -> None:
    assert len(seccomp.compiled()) % ctypes.sizeof(ctypes.c_uint64) == 0
    assert len(seccomp.compiled()) // 8 < 4096  # BPF_MAXINSNS
    assert seccomp.compiled() is seccomp.compiled()


# x86-64: what changes ids, with the number of its arguments.
SETTING = {"setuid": (105, 1), "setgid": (106, 1), "setresuid": (117, 3), "setresgid": (119, 3)}
NEVER_SHARED = {
    "setreuid": (113, (2_000_064, 2_000_064)),
    "setregid": (114, (2_000_064, 2_000_064)),
    "setfsuid": (122, (2_000_064,)),
    "setgroups of one": (116, (1, 0)),
    "shmget": (29, (0, 4096, 0o1600)),
    "semget": (64, (0, 1, 0o1600)),
    "msgget": (68, (0, 0o1600)),
}


@x86_64_only
def test_in_a_shared_sandbox_ids_are_changed_to_its_own_only() -> None:
    """What the filter lets through, the kernel refuses an ordinary user with the same error: so the program is asked for
    what it may do anyway, which is to stay who it is."""
    code = f"""
    import json
    calls = {SETTING!r}
    own = {{"setuid": os.getuid(), "setresuid": os.getuid(), "setgid": os.getgid(), "setresgid": os.getgid()}}
    def tried(shift):
        return {{name: call(number, *[own[name] + shift] * count) for name, (number, count) in calls.items()}}
    unchanged = tried(0)
    mixed = call(117, own["setresuid"], own["setresuid"], own["setresuid"] + 64)
    never = [call(number, *arguments) for number, arguments in {list(NEVER_SHARED.values())!r}]
    print(json.dumps([unchanged, tried(64), mixed, never]))
    """
    first = os.getuid() // 64 * 64
    if os.getgid() // 64 * 64 != first:
        pytest.skip("this user's id and group are too far apart for one block")
    unchanged, outside, mixed, never = json.loads(run(code, range(first, first + 64)))
    assert set(unchanged.values()) == {0}
    assert set(outside.values()) == {EPERM}
    assert mixed == EPERM
    assert set(never) == {EPERM}
