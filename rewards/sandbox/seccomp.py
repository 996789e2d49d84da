"""The system calls that judged code may not make, as a seccomp filter (Linux on x86-64, unprivileged).

One process, its threads and its pipes: no other process, no program, no socket, no signal, no namespace, nothing
that outlives it. With that the limits of the process are the limits of the whole tree. A refused call returns an
error, so that code which merely tries goes on. What is newer than the list doesn't exist (ENOSYS).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_ARCHITECTURE = 0xC000003E  # AUDIT_ARCH_X86_64
_FORBIDDEN = {
    "processes": "fork:57 vfork:58 execve:59 execveat:322",
    "signals": "kill:62 tkill:200 tgkill:234 rt_sigqueueinfo:129 rt_tgsigqueueinfo:297",
    "other processes": "ptrace:101 process_vm_readv:310 process_vm_writev:311 kcmp:312 migrate_pages:256 "
    "move_pages:279",
    "network": "socket:41 connect:42 accept:43 bind:49 listen:50 accept4:288",
    "what outlives a process": "shmget:29 shmat:30 shmctl:31 semget:64 semop:65 semctl:66 msgget:68 msgsnd:69 "
    "msgrcv:70 msgctl:71 mq_open:240 mq_unlink:241 add_key:248 request_key:249 keyctl:250 memfd_create:319",
    "file attributes": "chmod:90 fchmod:91 chown:92 fchown:93 lchown:94 utime:132 mknod:133 setxattr:188 lsetxattr:189 "
    "fsetxattr:190 removexattr:197 lremovexattr:198 fremovexattr:199 utimes:235 mknodat:259 fchownat:260 futimesat:261 "
    "fchmodat:268 utimensat:280",
    "identity": "setuid:105 setgid:106 setpgid:109 setsid:112 setreuid:113 setregid:114 setgroups:116 setresuid:117 "
    "setresgid:119 setfsuid:122 setfsgid:123 capset:126 personality:135 prctl:157",
    "scheduling": "setpriority:141 sched_setparam:142 sched_setscheduler:144 sched_setaffinity:203 ioprio_set:251 "
    "sched_setattr:314",
    "the machine": "pivot_root:155 chroot:161 acct:163 mount:165 umount2:166 swapon:167 swapoff:168 reboot:169 "
    "sethostname:170 setdomainname:171 iopl:172 ioperm:173 init_module:175 delete_module:176 quotactl:179 "
    "kexec_load:246 unshare:272 perf_event_open:298 fanotify_init:300 open_by_handle_at:304 setns:308 "
    "finit_module:313 seccomp:317 kexec_file_load:320 bpf:321 userfaultfd:323",
}
_NEWER = 424  # from here on only these exist: close_range, openat2, faccessat2, epoll_pwait2, futex_waitv
_NEWER_ALLOWED = (436, 437, 439, 441, 449)
_CLONE, _IOCTL, _FCNTL, _PRLIMIT = 56, 16, 72, 302
_CLONE_THREAD = 0x10000
_SIGNAL_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: a signal to somebody else by way of a file

_LOAD, _AND, _EQUAL, _ABOVE, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _ARCH, _FIRST, _SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data (low halves of arguments)
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def _instruction(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("HBBI", code, true, false, value)


def _when(number: int, *then: bytes) -> bytes:
    """`then` for this call only; it must end in a return."""
    return _instruction(_EQUAL, number, 0, len(then)) + b"".join(then)


def _refuse(code: int = errno.EPERM) -> bytes:
    return _instruction(_RETURN, _ERROR | code)


def program() -> bytes:
    """The filter's instructions, 8 bytes each."""
    allow = _instruction(_RETURN, _ALLOW)
    parts = [
        _instruction(_LOAD, _ARCH) + _instruction(_EQUAL, _ARCHITECTURE, 1, 0) + _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER) + _instruction(_ABOVE, 0x40000000, 0, 1) + _instruction(_RETURN, _KILL),  # x32
        *(_when(number, allow) for number in _NEWER_ALLOWED),
        _instruction(_ABOVE, _NEWER, 0, 1) + _refuse(errno.ENOSYS),
    ]
    for calls in _FORBIDDEN.values():
        parts += [_when(int(call.partition(":")[2]), _refuse()) for call in calls.split()]
    parts += [
        _when(_IOCTL, _refuse(errno.ENOTTY)),
        _when(
            _CLONE,
            _instruction(_LOAD, _FIRST),
            _instruction(_AND, _CLONE_THREAD),
            _instruction(_EQUAL, _CLONE_THREAD, 1, 0),
            _refuse(),
            allow,
        ),
        _when(_PRLIMIT, _instruction(_LOAD, _FIRST), _instruction(_EQUAL, 0, 1, 0), _refuse(), allow),
        _when(
            _FCNTL,
            _instruction(_LOAD, _SECOND),
            *(_instruction(_EQUAL, c, len(_SIGNAL_OWNERS) - i, 0) for i, c in enumerate(_SIGNAL_OWNERS)),
            allow,
            _refuse(),
        ),
        allow,
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
