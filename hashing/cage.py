"""The cage: what a process that decodes strangers' bytes gives up, for good, before it reads the first of them.

Three layers, none of which asks for a privilege:
- Landlock (Linux 5.13): no file can be opened, made, removed or executed, and no TCP port bound or connected to; later
  kernels keep signals and abstract sockets inside, too. docs.kernel.org/userspace-api/landlock.html
- seccomp-bpf: of the system calls those few are left that computing on bytes in memory takes; no memory becomes
  executable. docs.kernel.org/userspace-api/seccomp_filter.html
- resource limits: no new descriptor, no byte in a file, no core dump, so much memory.

Rules of this file: ctypes and numbers alone, each with its source; a call that is not on the list fails with EPERM.
`lock` says which layers hold, having tried.
"""

import ctypes
import errno
import os
import platform
import resource
import socket
import struct
from collections.abc import Callable
from enum import StrEnum


class Sandbox(StrEnum):
    """How much of the cage is asked for."""

    REQUIRED = "required"
    AVAILABLE = "available"  # as much as the kernel has
    OFF = "off"


MAX_MEMORY_BYTES = 6 << 30  # of address space; 100 million pixels on black and on white need half of it
LAYERS = ("landlock", "seccomp", "limits")  # in the order of their bits

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 4, 22, 38, 2  # linux/prctl.h
_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # the same on all architectures
# linux/landlock.h: how many rights to files each ABI knows, from 1 on.
_FILE_RIGHTS = (13, 14, 15, 15, 16, 16, 16)
_TCP_SINCE, _TCP_RIGHTS, _SCOPE_SINCE, _SCOPES = 4, 0b11, 6, 0b11

# What is left, with its number on x86-64 (arch/x86/entry/syscalls/syscall_64.tbl) and on aarch64
# (include/uapi/asm-generic/unistd.h); -1 where there is none.
_ALLOWED = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "recvfrom": (45, 207),
    "sendto": (44, 206), "recvmsg": (47, 212), "sendmsg": (46, 211), "close": (3, 57), "fstat": (5, 80),
    "lseek": (8, 62), "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233), "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getcpu": (309, 168), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169), "getrandom": (318, 278),
    "getpid": (39, 172), "gettid": (186, 178), "sysinfo": (99, 179), "poll": (7, -1), "ppoll": (271, 73),
    "select": (23, -1), "pselect6": (270, 72), "restart_syscall": (219, 128), "exit": (60, 93),
    "exit_group": (231, 94),
}  # fmt: skip
_NO_EXEC = {"mmap": (9, 222), "mprotect": (10, 226)}  # left, but for memory that is to be executed
_CLONE, _CLONE_THREAD = (56, 220), 0x00010000  # left for threads, which HEIF's decoder starts; linux/sched.h
_CLONE3 = (
    435  # its flags lie in memory, where a filter sees nothing: as if the kernel were too old, so that clone is used
)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # the column above; linux/audit.h
_PROT_EXEC = 4
# linux/bpf_common.h and linux/seccomp.h
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCH, _FIRST_ARGUMENT, _THIRD_ARGUMENT = (
    0,
    4,
    16,
    32,
)  # places in struct seccomp_data; the low half of an argument comes first


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """Return the version of Landlock that the kernel has; 0 if it has none, or it is switched off."""
    if platform.system() != "Linux":
        return 0
    return max(int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))), 0)


def _landlock(libc: ctypes.CDLL) -> bool:
    """Take away all that the kernel's Landlock knows of: a ruleset that handles it, with no rule."""
    abi = landlock_abi()
    if not abi:
        return False
    files = (1 << _FILE_RIGHTS[min(abi, len(_FILE_RIGHTS)) - 1]) - 1
    ports = _TCP_RIGHTS if abi >= _TCP_SINCE else 0
    scopes = _SCOPES if abi >= _SCOPE_SINCE else 0
    handled = struct.pack("=QQQ", files, ports, scopes)[: 24 if scopes else 16 if ports else 8]
    ruleset = libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), ctypes.c_uint(0))
    if ruleset < 0:
        return False
    held = libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0)) == 0
    os.close(ruleset)
    return bool(held)


def program(machine: str) -> bytes:
    """Return the seccomp filter for an architecture, as an array of struct sock_filter; KeyError."""
    column, architecture = _ARCHITECTURES[machine]
    steps = [(_LOAD, 0, 0, _ARCH), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL_PROCESS),
             (_LOAD, 0, 0, _NUMBER)]  # fmt: skip
    for numbers in _ALLOWED.values():
        if numbers[column] >= 0:
            steps += [(_JUMP_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    refused, allowed = (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    for numbers in _NO_EXEC.values():
        steps += [(_JUMP_EQUAL, 0, 4, numbers[column]), (_LOAD, 0, 0, _THIRD_ARGUMENT),
                  (_JUMP_ANY_BIT, 0, 1, _PROT_EXEC), refused, allowed]  # fmt: skip
    steps += [(_JUMP_EQUAL, 0, 4, _CLONE[column]), (_LOAD, 0, 0, _FIRST_ARGUMENT),
              (_JUMP_ANY_BIT, 0, 1, _CLONE_THREAD), allowed, refused,
              (_JUMP_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]  # fmt: skip
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, refused])


def _seccomp(libc: ctypes.CDLL) -> bool:
    if platform.machine() not in _ARCHITECTURES:
        return False
    steps = program(platform.machine())
    built = _Program(len(steps) // 8, steps)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(built), 0, 0) == 0)


def _limits() -> bool:
    """Set the limits, and leave none to be raised again."""
    wanted = {
        resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: 0,
        resource.RLIMIT_AS: MAX_MEMORY_BYTES,
    }  # fmt: skip
    for kind, most in wanted.items():
        resource.setrlimit(kind, (most, most))
    return True


def _denied() -> bool:
    """Say whether a file, a socket and a new process are refused: what the layers are for, tried."""
    tries: tuple[Callable[[], object], ...] = (lambda: os.open("/", os.O_RDONLY), socket.socket, _fork)
    return not any(map(_works, tries))


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def lock(wanted: Sandbox) -> frozenset[str]:
    """Lock this process in, for good; returns the layers that hold. It must have no other thread yet."""
    if wanted is Sandbox.OFF or platform.system() != "Linux":
        return frozenset()
    libc = _libc()
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return frozenset()
    held = {"landlock": _landlock(libc), "limits": _limits(), "seccomp": _seccomp(libc)}
    if all(held.values()) and not _denied():
        return frozenset()
    return frozenset(layer for layer, holds in held.items() if holds)
