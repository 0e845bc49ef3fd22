"""Runs one program, which comes as JSON over stdin, after this process has given up its rights; says on stdout how it ended.

A process cannot take back what it gives up here: limits of time and memory; a network namespace without a network, where the system
allows one; reading but Python's own library (Landlock, where the kernel has it, else by Python's own hook); and by a seccomp filter all
system calls but a list, which has no network, no other processes and no writing of files. Without the filter nothing runs.
"""
import ctypes
import io
import json
import math
import os
import resource
import signal
import struct
import sys
import time

NEW_USER, NEW_NET = 0x10000000, 0x40000000
SET_PDEATHSIG, SET_SECCOMP, SET_NO_NEW_PRIVS, FILTER = 1, 22, 38, 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ_FILE, READ_DIR = 4, 8
# System calls of x86_64 and aarch64, None where there is none: memory, time, signals to itself, and files that are open.
CALLS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "newfstatat": (262, 79), "lseek": (8, 62),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216), "madvise": (28, 233),
    "mincore": (27, 232), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "pread64": (17, 67),
    "readv": (19, 65), "writev": (20, 66), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "stat": (4, None), "lstat": (6, None), "statx": (332, 291), "readlink": (89, None), "readlinkat": (267, 78),
    "getdents64": (217, 61), "getcwd": (79, 17), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None),
    "pipe2": (293, 59), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "membarrier": (324, 283),
    "futex": (202, 98), "set_robust_list": (273, 99), "get_robust_list": (274, 100), "set_tid_address": (218, 96),
    "rseq": (334, 293), "arch_prctl": (158, None), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getpgrp": (111, None),
    "getpgid": (121, 155), "getsid": (124, 156), "getgroups": (115, 158), "umask": (95, 166), "uname": (63, 160),
    "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163), "times": (100, 153), "getrandom": (318, 278),
    "time": (201, None), "gettimeofday": (96, 169), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "pause": (34, None), "alarm": (37, None),
    "getitimer": (36, 102), "setitimer": (38, 103), "restart_syscall": (219, 128), "select": (23, None),
    "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73), "epoll_create": (213, None), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22), "eventfd2": (290, 19),
    "exit": (60, 93), "exit_group": (231, 94),
}
# Calls that depend on an argument, and calls that the C library makes in another way where there is none.
OPEN, OPENAT, CLONE, TGKILL, IOCTL = (2, None), (257, 56), (56, 220), (234, 131), (16, 29)
FCNTL, PRLIMIT, MISSING = (72, 25), (302, 261), ((435, 435), (437, 437))
# AUDIT_ARCH of linux/audit.h, and the column of the calls.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE; a thread; the commands of fcntl and ioctl that touch nothing but a descriptor.
WRITES, THREAD = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000, 0x10000
FCNTLS, IOCTLS = (0, 1, 2, 3, 4, 1030), (0x5401, 0x5451)
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/usr/share/zoneinfo", "/etc/ld.so.cache")


class Refused(Exception):
    pass


def filter_of(arch, column, pid):
    """The seccomp filter as bytes: struct sock_filter of linux/filter.h."""
    load, equal, bits, end = 0x20, 0x15, 0x45, 0x06
    allow, deny, missing, kill = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
    code = [(load, 0, 0, 4), (equal, 1, 0, arch), (end, 0, 0, kill), (load, 0, 0, 0)]

    def low(argument):
        return (load, 0, 0, 16 + 8 * argument)

    def case(call, *body):
        if call[column] is not None:
            code.extend([(equal, 0, len(body), call[column]), *body])

    def one_of(call, argument, values):
        checks = [(equal, len(values) - place, 0, value) for place, value in enumerate(values)]
        case(call, low(argument), *checks, (end, 0, 0, deny), (end, 0, 0, allow))

    for call, argument in ((OPEN, 1), (OPENAT, 2)):
        case(call, low(argument), (bits, 0, 1, WRITES), (end, 0, 0, deny), (end, 0, 0, allow))
    case(CLONE, low(0), (bits, 1, 0, THREAD), (end, 0, 0, deny), (end, 0, 0, allow))
    case(PRLIMIT, low(2), (equal, 0, 3, 0), (load, 0, 0, 36), (equal, 0, 1, 0), (end, 0, 0, allow), (end, 0, 0, deny))
    one_of(TGKILL, 0, (pid,))
    one_of(FCNTL, 1, FCNTLS)
    one_of(IOCTL, 1, IOCTLS)
    for call in MISSING:
        case(call, (end, 0, 0, missing))
    for call in CALLS.values():
        case(call, (end, 0, 0, allow))
    # The second ABI of x86_64 has its own numbers, which no case has: they end here too.
    code.append((end, 0, 0, deny))
    return b"".join(struct.pack("=HBBI", *one) for one in code), len(code)


def readable():
    paths = [path for path in (*sys.path, *LIBRARIES) if path and os.path.exists(path)]
    return sorted({os.path.realpath(path) for path in (*paths, os.path.join(sys.base_prefix, "lib")) if os.path.exists(path)})


def landlock(libc, paths):
    """Lets this process read these paths alone. False where the kernel has no Landlock."""
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    handled = (1 << 13) - 1 | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    rules = libc.syscall(CREATE_RULESET, struct.pack("=Q", handled), 8, 0)
    if rules < 0:
        return False
    for path in paths:
        rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if libc.syscall(ADD_RULE, rules, 1, struct.pack("=Qi", rights, place), 0) != 0:
            return False
        os.close(place)
    if libc.syscall(RESTRICT_SELF, rules, 0) != 0:
        return False
    os.close(rules)
    return True


def hook(paths):
    """Refuses files elsewhere, in Python alone."""

    def audit(event, args):
        if event not in ("open", "os.listdir", "os.scandir") or not isinstance(args[0], (str, bytes)):
            return
        path = os.path.realpath(os.fsdecode(args[0]))
        if not any(path == one or path.startswith(one + "/") for one in paths):
            raise PermissionError(1, "reading is limited to Python's library")

    sys.addaudithook(audit)


def bounded(what, soft, hard):
    """A limit that is no higher than the one in force, which nobody may raise."""
    most = resource.getrlimit(what)[1]
    return (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))


def give_up(seconds, memory):
    """Gives up all rights. Returns by what."""
    system, machine = os.uname().sysname, os.uname().machine
    if system != "Linux" or machine not in MACHINES or sys.maxsize < 2**32:
        raise Refused(f"{system} on {machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    os.chdir("/")
    layers, paths = [], readable()
    # Ends with the process that started it.
    libc.prctl(SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(what, bounded(what, most, most))
    # Python's own start does not count. A signal that may be caught comes first.
    seconds += math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, bounded(resource.RLIMIT_CPU, seconds, seconds + 1))
    if libc.unshare(NEW_USER | NEW_NET) == 0:
        layers.append("network namespace")
    if libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise Refused(f"no_new_privs: {os.strerror(ctypes.get_errno())}")
    layers.append("Landlock" if landlock(libc, paths) else "Python's audit hook")
    code, count = filter_of(*MACHINES[machine], os.getpid())
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", count, ctypes.addressof(buffer))
    if libc.prctl(SET_SECCOMP, FILTER, program, 0, 0) != 0:
        raise Refused(f"seccomp: {os.strerror(ctypes.get_errno())}")
    if "Landlock" not in layers:
        hook(paths)
    return ["seccomp", *layers]


class Closed(io.StringIO):
    """Input and output of the program: what it prints goes nowhere, and it has nothing to read."""

    def write(self, text):
        return len(text)

    def read(self, *_):
        raise OSError("there is no input")

    readline = readlines = read

    def readable(self):
        return False


def text_of(error):
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return "an exception without a text"


def main():
    asked = json.loads(sys.stdin.buffer.read())
    out, write, leave = os.dup(1), os.write, os._exit
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    try:
        layers = give_up(asked["seconds"], asked["memory"])
    except (Refused, OSError, ValueError) as error:
        write(out, (json.dumps({"refused": text_of(error)}) + "\n").encode())
        leave(0)
    write(out, (json.dumps({"layers": layers}) + "\n").encode())
    sys.stdin = sys.stdout = sys.stderr = Closed()
    # The program does not know this word, and nothing but its last line being reached writes it.
    passed, program = (asked["word"] + "\n").encode(), asked["program"]
    asked.clear()
    try:
        exec(program, {})
    except BaseException as error:
        write(out, ("failed: " + text_of(error)[:200].replace("\n", " ")).encode("utf-8", "replace"))
        leave(0)
    write(out, passed)
    leave(0)


main()
