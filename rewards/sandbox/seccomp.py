"""The system calls that judged code may make, as a seccomp filter (Linux on x86-64, unprivileged).

The filter is an allow-list: a call that is not in it changes nothing. What remains is one process with its threads, its
pipes and files opened for reading: no other process, no program, no signal, no socket to anybody, no namespace,
no change of a file or a folder by its path. The limits of the process are therefore the limits of the whole tree.

A refused call returns EPERM, a call newer than the list ENOSYS (libraries then fall back to older ones). Calls of
another architecture kill the process. Where Landlock is too old to stop truncation, this filter stops it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64
_X32 = 0x40000000  # bit of the call numbers of the x32 interface
ALLOWED = {
    "memory": "brk:12 mmap:9 munmap:11 mprotect:10 mremap:25 madvise:28 msync:26 membarrier:324",
    "open files": "read:0 write:1 readv:19 writev:20 pread64:17 pwrite64:18 preadv:295 pwritev:296 preadv2:327 "
    "pwritev2:328 lseek:8 close:3 close_range:436 sendfile:40 fadvise64:221 dup:32 dup2:33 dup3:292 pipe:22 pipe2:293",
    "looking at files": "stat:4 fstat:5 lstat:6 newfstatat:262 statx:332 access:21 faccessat:269 faccessat2:439 "
    "readlink:89 readlinkat:267 getdents:78 getdents64:217 getcwd:79 chdir:80 fchdir:81 statfs:137 fstatfs:138 "
    "umask:95",
    "waiting": "poll:7 ppoll:271 select:23 pselect6:270 epoll_create:213 epoll_create1:291 epoll_ctl:233 "
    "epoll_wait:232 epoll_pwait:281 epoll_pwait2:441 eventfd:284 eventfd2:290 nanosleep:35 clock_nanosleep:230 "
    "pause:34 wait4:61 waitid:247 restart_syscall:219",
    "threads": "futex:202 futex_waitv:449 set_tid_address:218 set_robust_list:273 get_robust_list:274 rseq:334 "
    "sched_yield:24 exit:60 exit_group:231",
    "own signals": "rt_sigaction:13 rt_sigprocmask:14 rt_sigreturn:15 rt_sigpending:127 rt_sigtimedwait:128 "
    "rt_sigsuspend:130 sigaltstack:131 alarm:37 getitimer:36 setitimer:38",
    "time": "time:201 gettimeofday:96 clock_gettime:228 clock_getres:229 times:100 getrusage:98",
    "facts": "getpid:39 gettid:186 getppid:110 getuid:102 geteuid:107 getgid:104 getegid:108 getgroups:115 "
    "getresuid:118 getresgid:120 getpgrp:111 getpgid:121 getsid:124 getpriority:140 getrlimit:97 setrlimit:160 "
    "capget:125 uname:63 sysinfo:99 getcpu:309 getrandom:318 sched_getaffinity:204 sched_getparam:143 "
    "sched_getscheduler:145 sched_getattr:315 sched_get_priority_max:146 sched_get_priority_min:147 "
    "sched_rr_get_interval:148",
    "a pair of sockets": "sendto:44 recvfrom:45 sendmsg:46 recvmsg:47 shutdown:48 getsockname:51 getpeername:52 "
    "setsockopt:54 getsockopt:55",
}
_NEWER = 424  # the kernel's common numbers for all architectures begin here
_OPEN, _CLONE, _IOCTL, _FCNTL, _SOCKETPAIR, _OPENAT, _PRLIMIT = 2, 56, 16, 72, 53, 257, 302
_CLONE_THREAD, _CLONE_NAMESPACES = 0x10000, 0x7E020000
# Neither duplicates nor flags of descriptors reach anybody else; owners of signals, leases and locks would.
_FCNTL_ALLOWED = (0, 1, 2, 3, 4, 1030, 1032)  # F_DUPFD, F_{GET,SET}F{D,L}, F_DUPFD_CLOEXEC, F_GETPIPE_SZ
_IOCTL_ALLOWED = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS (isatty), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_CREATE_OR_TRUNCATE, _TEMPORARY, _ACCESS_MODE = 0x240, 0x400000, 3  # O_CREAT | O_TRUNC, O_TMPFILE's own bit

_LOAD, _AND, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST, _SECOND, _THIRD = 0, 4, 16, 24, 32  # offsets in struct seccomp_data (low halves of arguments)
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def _instruction(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("HBBI", code, true, false, value)


def _refuse(code: int = errno.EPERM) -> bytes:
    return _instruction(_RETURN, _ERROR | code)


_PASS = _instruction(_RETURN, _ALLOW)


def _when(number: int, *then: bytes) -> bytes:
    """`then` for this call only; it must end in a return."""
    body = b"".join(then)
    return _instruction(_EQUAL, number, 0, len(body) // 8) + body


def _one_of(offset: int, values: tuple[int, ...], otherwise: int) -> bytes:
    """Allow the call if an argument is one of `values`, else refuse it with error number `otherwise`."""
    tests = [_instruction(_EQUAL, value, len(values) - i, 0) for i, value in enumerate(values)]
    return _instruction(_LOAD, offset) + b"".join(tests) + _refuse(otherwise) + _PASS


def _opened(flags: int) -> bytes:
    """Allow opening, but for what changes a file without having it open for writing, which Landlock looks at.

    `O_RDONLY | O_TRUNC` empties a file where Landlock's version is below 3, and so does access mode 3, which opens
    for neither reading nor writing. Opening for writing is Landlock's to refuse: /dev/null and pipes stay.
    """
    return b"".join(
        [
            _instruction(_LOAD, flags) + _instruction(_ANY_BIT, _TEMPORARY, 6, 0),
            _instruction(_AND, _ACCESS_MODE) + _instruction(_EQUAL, _ACCESS_MODE, 4, 0),
            _instruction(_EQUAL, 0, 0, 2),
            _instruction(_LOAD, flags) + _instruction(_ANY_BIT, _CREATE_OR_TRUNCATE, 1, 0),
            _PASS,
            _refuse(),
        ]
    )


def program() -> bytes:
    """The filter's instructions, 8 bytes each."""
    numbers = [int(call.partition(":")[2]) for calls in ALLOWED.values() for call in calls.split()]
    thread = _instruction(_LOAD, _FIRST) + _instruction(_AND, _CLONE_THREAD | _CLONE_NAMESPACES)
    stream = _instruction(_LOAD, _FIRST) + _instruction(_EQUAL, 1, 1, 0) + _refuse()  # AF_UNIX
    stream += _instruction(_LOAD, _SECOND) + _instruction(_AND, 0xF)  # SOCK_STREAM: it sends to its other end alone
    parts = [
        _instruction(_LOAD, _ARCH) + _instruction(_EQUAL, _ARCHITECTURE, 1, 0) + _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER) + _instruction(_ABOVE, _X32, 0, 1) + _instruction(_RETURN, _KILL),
        *(_when(number, _PASS) for number in numbers),
        _when(_OPEN, _opened(_SECOND)),
        _when(_OPENAT, _opened(_THIRD)),
        _when(_IOCTL, _one_of(_SECOND, _IOCTL_ALLOWED, errno.ENOTTY)),
        _when(_FCNTL, _one_of(_SECOND, _FCNTL_ALLOWED, errno.EPERM)),
        _when(_PRLIMIT, _one_of(_FIRST, (0,), errno.EPERM)),
        _when(_CLONE, thread, _instruction(_EQUAL, _CLONE_THREAD, 1, 0), _refuse(), _PASS),
        _when(_SOCKETPAIR, stream, _instruction(_EQUAL, 1, 1, 0), _refuse(), _PASS),
        _instruction(_ABOVE, _NEWER, 0, 1) + _refuse(errno.ENOSYS),
        _refuse(),
    ]
    return b"".join(parts)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def install(instructions: bytes) -> None:
    """For this thread and all it starts, for ever. Needs no_new_privs. Raises OSError."""
    buffer = ctypes.create_string_buffer(instructions)
    program = _Program(len(instructions) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")
